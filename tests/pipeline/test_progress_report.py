"""Progress bars, progress lines in the log, and the reports of stages."""

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from child_process import run_script
from pipeline.progress import ProgressBar, progress
from pipeline.report import StageReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that advances only in `tick_after_each` or when `now` is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def tick_after_each(self, count: int, seconds: float) -> Iterator[int]:
        for number in range(count):
            self.now += seconds
            yield number


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_without_a_terminal_a_long_loop_logs_a_line_every_30_s(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.progress"):
        seen = list(progress(clock.tick_after_each(10, 10.0), "writing frames", total=10))
    assert seen == list(range(10))
    assert caplog.messages == [
        "writing frames: 3 of 10, 70 s left, 0.1 frame/s",
        "writing frames: 6 of 10, 40 s left, 0.1 frame/s",
        "writing frames: 9 of 10, 10 s left, 0.1 frame/s",
    ]


def test_without_a_total_only_count_and_rate_are_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.progress"):
        list(progress(clock.tick_after_each(2, 20.0), "matching", unit="pair"))
    assert caplog.messages == ["matching: 2, 0.1 pair/s"]


def test_a_short_loop_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert list(progress([1, 2, 3], "reading")) == [1, 2, 3]
        assert list(progress([], "reading")) == []
    assert caplog.messages == []


def test_items_done_before_count_for_the_total_but_not_for_the_rate(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.progress"):
        list(progress(clock.tick_after_each(4, 10.0), "mapping", total=10, done=6))
    assert caplog.messages == ["mapping: 9 of 10, 10 s left, 0.1 frame/s"]


def test_a_loop_inside_another_shows_no_progress(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO, logger="pipeline.progress"), ProgressBar("trying starts", total=1):
        list(progress(clock.tick_after_each(4, 40.0), "mapping", total=4))
    assert "trying starts" in terminal.getvalue()
    assert "mapping" not in terminal.getvalue()
    assert caplog.messages == []
    list(progress([1], "mapping"))
    assert "mapping" in terminal.getvalue()


def test_a_terminal_gets_a_bar_with_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress([1, 2, 3], "reading")) == [1, 2, 3]
    assert "reading" in terminal.getvalue() and "3/3" in terminal.getvalue() and "frame/s" in terminal.getvalue()


def test_a_bar_counts_updates_outside_a_loop(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.progress"), ProgressBar("mapping", total=20) as bar:
        for count in (2, 3, 5):
            clock.now += 20.0
            bar.update(count)
    # The second line is due only 30 s after the first.
    assert caplog.messages == ["mapping: 5 of 20, 120 s left, 0.1 frame/s"]


def test_a_bar_on_a_terminal_is_closed_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ZeroDivisionError), ProgressBar("mapping", total=20, unit="image") as bar:
        bar.update(2)
        bar.update()
        raise ZeroDivisionError
    shown = terminal.getvalue()
    assert "mapping" in shown and "3/20" in shown and "image/s" in shown
    # An open bar does not end with a newline.
    assert shown.endswith("\n")


def test_a_report_contains_counts_times_and_memory(tmp_path: Path, clock: Clock) -> None:
    report = StageReport("extract")
    report.counts["frames"] = 12
    report.warnings.append("2 frames are dark")
    for seconds in (1.5, 2.0):
        with report.timed("decode"):
            clock.now += seconds
    clock.now += 1.0
    report.save(tmp_path / "reports" / "extract.json")
    written = json.loads((tmp_path / "reports" / "extract.json").read_text())
    assert written["stage"] == "extract" and written["counts"] == {"frames": 12}
    assert written["times_s"] == {"decode": 3.5} and written["total_s"] == 4.5
    assert written["warnings"] == ["2 frames are dark"]
    assert written["peak_memory_mb"] > 10 and written["version"].startswith("0.")


def test_the_time_of_a_failed_block_is_counted(clock: Clock) -> None:
    report = StageReport("extract")
    with pytest.raises(ZeroDivisionError), report.timed("decode"):
        clock.now += 1.0
        raise ZeroDivisionError
    assert report.times_s == {"decode": 1.0}


def test_peak_memory_grows_with_allocations_and_never_falls(tmp_path: Path) -> None:
    script = """
from pipeline.report import peak_memory_mb
before = peak_memory_mb()
held = b"x" * (300 << 20)
while_held = peak_memory_mb()
del held
print(before, while_held - before, peak_memory_mb() - before)
"""
    # Memory of this process must not count for its child.
    held_here = b"x" * (300 << 20)
    before, while_held, afterwards = map(float, run_script(script, tmp_path).stdout.split())
    del held_here
    assert before < 200
    # The kernel counts resident pages of each thread in batches, so the value is not exact.
    assert 250 < while_held < 350 and 250 < afterwards < 350
