"""Long messages lose their middle and keep the problem at the start and the advice at the end."""

import pytest

from pipeline.command.messages import one_line, shorten_box


def test_a_short_message_is_kept_on_one_line() -> None:
    assert one_line("a  b:\n   c") == "a  b: c"
    assert one_line("x" * 300) == "x" * 300


@pytest.mark.parametrize("words", [["/data" + "/x" * 500], ["key"] * 500, ["/data" + "/x" * 100] * 20])
def test_the_middle_of_a_long_message_is_removed(words: list[str]) -> None:
    text = one_line(f"cannot read {' '.join(words)}: choose another")
    assert len(text) <= 300 and text.startswith("cannot read ") and text.endswith(": choose another")


def test_a_long_path_is_shortened_first() -> None:
    path = "/data" + "/x" * 200 + "/clip.mp4"
    text = one_line(f"cannot read {path} because the disk is full: free some space")
    assert text.startswith("cannot read /data/x") and text.endswith(
        "/clip.mp4 because the disk is full: free some space"
    )


@pytest.mark.parametrize("edges", ["│─", "  ", "|-"])
def test_only_long_paragraphs_of_a_box_are_shortened(edges: str) -> None:
    side, rule = edges[0], edges[1] if edges[1] != " " else "-"
    rows = [f"{side} {'x' * 70} {side}"] * 20
    short = [f"{side} {'Length of the video.':<70} {side}", f"{side} {rule * 70} {side}"]
    lines = shorten_box("\n".join([*short, *rows])).splitlines()
    assert lines[:2] == short
    assert len(lines) < 12 and sum("..." in line for line in lines) == 1
    assert {len(line) for line in lines} == {74}
