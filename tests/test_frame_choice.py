"""Which frames are chosen, and why others are not: on measurements made up for the purpose."""

from dataclasses import replace
from typing import Any

import pytest

from data_prep.frame_choice import REASONS, ChoiceRules, Segment, choose_frames
from data_prep.frame_quality import FrameQuality

RULES = ChoiceRules(
    stride=1,
    fps=None,
    max_frames=None,
    keep_all=False,
    min_sharpness=0.45,
    min_motion_px=0.2,
    min_segment_frames=3,
)
GOOD = FrameQuality(
    index=0,
    timestamp_s=0.0,
    sharpness=100.0,
    exposure=95.0,
    black=0.02,
    saturated=0.01,
    highlights=0.03,
    red=0.8,
    blue=-0.2,
    change=40.0,
    motion_px=3.0,
    continuity=1.0,
    skip_continuity=None,
    damaged=False,
)


def test_cuts_split_unless_all_frames_are_to_be_one() -> None:
    qualities = frames(30, continuity={10: 0.1, 20: 0.1})
    assert kept(choose_frames(qualities, RULES)) == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    assert kept(choose_frames(qualities, replace(RULES, split_at_cuts=False))) == [list(range(30))]


def frames(count: int, **changed: dict[int, Any]) -> list[FrameQuality]:
    """Good frames at 30 a second; `name={index: value}` changes single ones."""
    result = [replace(GOOD, index=i, timestamp_s=i / 30) for i in range(count)]
    for name, values in changed.items():
        for i, value in values.items():
            result[i] = replace(result[i], **{name: value})
    return result


def reasons(segments: list[Segment]) -> dict[int, str]:
    return {v.quality.index: v.reason for segment in segments for v in segment.verdicts if v.reason}


def kept(segments: list[Segment]) -> list[list[int]]:
    return [[quality.index for quality in segment.kept] for segment in segments]


def test_good_frames_are_all_kept() -> None:
    segments = choose_frames(frames(30), RULES)
    assert kept(segments) == [list(range(30))]
    assert segments[0].begins_because == "start"


@pytest.mark.parametrize(
    "reason, changed",
    [
        ("damaged", {"damaged": {9: True}}),
        ("dark", {"black": {9: 0.95}}),
        ("dark", {"exposure": {9: 5.0}}),
        ("white", {"saturated": {9: 0.7}}),
        ("out_of_body", {"red": {9: 0.0}}),
        ("out_of_body", {"blue": {9: 0.7}}),
        ("blocked", {"sharpness": {9: 5.0}}),
        ("duplicate", {"change": {9: 0.5}, "motion_px": {9: 0.0}}),
        ("duplicate", {"change": {9: 6.0}, "motion_px": {9: 0.03}}),
        ("blurred", {"sharpness": {9: 40.0}}),
        ("no_motion", {"motion_px": {9: 0.1}}),
    ],
)
def test_a_bad_frame_is_rejected_for_its_reason(reason: str, changed: dict[str, dict[int, Any]]) -> None:
    segments = choose_frames(frames(30, **changed), RULES)
    assert reasons(segments) == {9: reason}
    assert reason in REASONS
    assert len(segments) == 1


def test_slow_motion_adds_up() -> None:
    segments = choose_frames(frames(30, motion_px={i: 0.08 for i in range(10, 20)}), RULES)
    assert sorted(reasons(segments)) == [10, 11, 13, 14, 16, 17, 19]


def test_a_slow_camera_is_not_a_row_of_duplicates() -> None:
    still = {i: 0.05 for i in range(1, 30)}
    segments = choose_frames(frames(30, change={i: 8.0 for i in range(1, 30)}, motion_px=still), RULES)
    assert set(reasons(segments).values()) == {"no_motion"}


def test_a_gradual_loss_of_sharpness_is_no_blur() -> None:
    segments = choose_frames(frames(90, sharpness={i: 100 - i for i in range(90)}), RULES)
    assert "blurred" not in reasons(segments).values()


def test_a_hard_cut_splits() -> None:
    segments = choose_frames(frames(30, continuity={12: 0.1}), RULES)
    assert kept(segments) == [list(range(12)), list(range(12, 30))]
    assert segments[1].begins_because == "hard cut before frame 12"


def test_one_foreign_frame_is_a_flash_and_no_cut() -> None:
    segments = choose_frames(frames(30, continuity={12: 0.1, 13: 0.1}, skip_continuity={13: 0.95}), RULES)
    assert reasons(segments) == {12: "flash"}
    assert len(segments) == 1


def test_two_cuts_in_a_row_are_cuts() -> None:
    segments = choose_frames(frames(30, continuity={12: 0.1, 13: 0.1}, skip_continuity={13: 0.1}), RULES)
    assert [segment.verdicts[0].quality.index for segment in segments] == [0, 12, 13]
    assert reasons(segments) == {12: "short_segment"}


def test_a_short_loss_of_view_does_not_split_and_a_long_one_does() -> None:
    blocked = {i: 3.0 for i in range(20, 30)}
    segments = choose_frames(frames(90, sharpness=blocked, continuity={30: 0.1}), RULES)
    assert len(segments) == 1
    blocked = {i: 3.0 for i in range(20, 60)}
    segments = choose_frames(frames(90, sharpness=blocked), RULES)
    assert kept(segments) == [list(range(20)), list(range(60, 90))]
    assert segments[1].begins_because == "view lost for 1.4 s before frame 60"


def test_a_cut_through_black_splits() -> None:
    black = {i: 1.0 for i in range(12, 15)}
    assert len(choose_frames(frames(30, black=black, continuity={15: 0.1}), RULES)) == 2
    assert len(choose_frames(frames(30, black=black, continuity={15: 0.9}), RULES)) == 1


@pytest.mark.parametrize("bad", [{"saturated": {12: 0.9}}, {"damaged": {12: True}}, {"exposure": {12: 3.0}}])
def test_a_bad_frame_does_not_hide_a_cut(bad: dict[str, dict[int, Any]]) -> None:
    assert len(choose_frames(frames(30, continuity={13: 0.1}, **bad), RULES)) == 2
    assert len(choose_frames(frames(30, **bad), RULES)) == 1


def test_short_segments_are_judged_before_sampling() -> None:
    assert kept(choose_frames(frames(60), replace(RULES, stride=30, min_segment_frames=10))) == [[0, 30]]


def test_a_black_start_is_no_segment() -> None:
    segments = choose_frames(frames(60, black={i: 1.0 for i in range(30)}, exposure={i: 0.0 for i in range(30)}), RULES)
    assert kept(segments) == [list(range(30, 60))]


def test_out_of_body_is_told_from_tissue_even_when_it_is_most_of_the_video() -> None:
    outside = {i: -0.3 for i in range(70)}
    segments = choose_frames(frames(100, red=outside), RULES)
    assert kept(segments)[-1] == list(range(70, 100))
    assert set(reasons(segments).values()) == {"out_of_body"}


def test_stride_takes_every_nth_and_the_sharpest_where_that_one_is_bad() -> None:
    qualities = frames(20, damaged={10: True}, sharpness={13: 120.0})
    segments = choose_frames(qualities, replace(RULES, stride=5))
    assert kept(segments) == [[0, 5, 13, 15]]
    assert reasons(segments)[10] == "damaged"
    assert reasons(segments)[11] == "between_samples"


def test_fps_goes_by_the_true_timestamps() -> None:
    qualities = [
        replace(q, timestamp_s=t) for q, t in zip(frames(8), (0, 0.1, 0.5, 0.6, 0.9, 1.0, 1.6, 2.1), strict=True)
    ]
    assert kept(choose_frames(qualities, replace(RULES, fps=2.0))) == [[0, 2, 5, 6, 7]]
    assert kept(choose_frames(qualities, replace(RULES, fps=1000.0))) == [list(range(8))]


def test_fps_at_the_rate_of_the_video_keeps_every_frame() -> None:
    qualities = [replace(q, timestamp_s=round(q.index / 30, 6)) for q in frames(300)]
    assert kept(choose_frames(qualities, replace(RULES, fps=30.0))) == [list(range(300))]


def test_max_frames_thins_out_evenly() -> None:
    segments = choose_frames(frames(101), replace(RULES, max_frames=11))
    assert kept(segments) == [list(range(0, 101, 10))]
    assert set(reasons(segments).values()) == {"max_frames"}
    assert kept(choose_frames(frames(5), replace(RULES, max_frames=11))) == [[0, 1, 2, 3, 4]]


def test_keep_all_keeps_every_frame_and_flags_it() -> None:
    qualities = frames(30, sharpness={9: 40.0}, change={20: 0.1}, continuity={25: 0.1})
    segments = choose_frames(qualities, replace(RULES, keep_all=True, min_segment_frames=10))
    assert kept(segments) == [list(range(25)), list(range(25, 30))]
    flags = {v.quality.index: v.flags for segment in segments for v in segment.verdicts if v.flags}
    assert flags == {9: ("blurred",), 20: ("duplicate",)}


def test_keep_all_with_a_stride_is_exact() -> None:
    segments = choose_frames(frames(20, damaged={10: True}), replace(RULES, keep_all=True, stride=5))
    assert kept(segments) == [[0, 5, 10, 15]]


def test_every_frame_has_one_verdict() -> None:
    qualities = frames(50, continuity={7: 0.0, 20: 0.0}, black={30: 1.0}, damaged={3: True})
    segments = choose_frames(qualities, replace(RULES, stride=3, max_frames=7))
    assert [v.quality.index for segment in segments for v in segment.verdicts] == list(range(50))


def test_all_frames_dark() -> None:
    segments = choose_frames(frames(10, exposure={i: 1.0 for i in range(10)}), RULES)
    assert kept(segments) == [[]]
