"""Frame selection and rejection reasons, on synthetic measurements."""

from dataclasses import replace
from typing import Any

import pytest

from data_prep.selection.frame_choice import REASONS, ChoiceRules, Segment, choose_frames
from data_prep.selection.frame_quality import FrameQuality
from frame_facts import GOOD

RULES = ChoiceRules(
    stride=1,
    fps=None,
    max_frames=None,
    keep_all=False,
    min_sharpness=0.45,
    min_motion_px=0.2,
    min_segment_frames=3,
)


def test_cuts_split_unless_splitting_is_off() -> None:
    qualities = frames(30, continuity={10: 0.1, 20: 0.1})
    assert kept(choose_frames(qualities, RULES)) == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    assert kept(choose_frames(qualities, replace(RULES, split_at_cuts=False))) == [list(range(30))]


def frames(count: int, fps: float = 30.0, **changed: dict[int, Any]) -> list[FrameQuality]:
    """Good frames; `name={index: value}` changes individual ones."""
    result = [replace(GOOD, index=i, timestamp_s=i / fps) for i in range(count)]
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
        ("out_of_body", {"red": {9: 0.0}, "continuity": {9: 0.1, 10: 0.1}}),
        ("out_of_body", {"blue": {9: 0.7}, "continuity": {9: 0.1, 10: 0.1}}),
        ("blocked", {"sharpness": {9: 5.0}}),
        ("duplicate", {"change": {9: 0.5}, "motion_px": {9: 0.0}}),
        ("duplicate", {"change": {9: 6.0}, "motion_px": {9: 0.03}}),
        ("blurred", {"sharpness": {9: 40.0}}),
        ("no_motion", {"motion_px": {9: 0.1}}),
    ],
)
def test_bad_frame_is_rejected_with_its_reason(reason: str, changed: dict[str, dict[int, Any]]) -> None:
    segments = choose_frames(frames(30, **changed), RULES)
    assert reasons(segments) == {9: reason}
    assert reason in REASONS
    assert len(segments) == 1


def test_slow_motion_accumulates() -> None:
    segments = choose_frames(frames(30, motion_px={i: 0.08 for i in range(10, 20)}), RULES)
    assert sorted(reasons(segments)) == [10, 11, 13, 14, 16, 17, 19]


def test_slow_camera_gives_no_duplicates() -> None:
    still = {i: 0.05 for i in range(1, 30)}
    segments = choose_frames(frames(30, change={i: 8.0 for i in range(1, 30)}, motion_px=still), RULES)
    assert set(reasons(segments).values()) == {"no_motion"}


def test_gradual_loss_of_sharpness_is_not_blur() -> None:
    segments = choose_frames(frames(90, sharpness={i: 100 - i for i in range(90)}), RULES)
    assert "blurred" not in reasons(segments).values()


def test_hard_cut_splits() -> None:
    segments = choose_frames(frames(30, continuity={12: 0.1}), RULES)
    assert kept(segments) == [list(range(12)), list(range(12, 30))]
    assert segments[1].begins_because == "hard cut before frame 12"


@pytest.mark.parametrize(
    ("fps", "shared", "segments"), [(3, 6, 2), (3, 13, 1), (30, 13, 2), (30, 40, 1), (120, 13, 2), (120, 40, 1)]
)
def test_lost_flow_is_a_cut_unless_enough_keypoints_agree(fps: float, shared: int, segments: int) -> None:
    qualities = frames(30, fps, continuity={12: 0.1}, shared_places={12: shared})
    assert len(choose_frames(qualities, RULES)) == segments


def test_fast_camera_gives_no_cuts() -> None:
    lost = {i: 0.2 for i in range(12, 16)}
    shared = {12: 14, 13: 7, 14: 8, 15: 12}
    assert len(choose_frames(frames(30, 3, continuity=lost, shared_places=shared), RULES)) == 1
    shared[14] = 3
    assert len(choose_frames(frames(30, 3, continuity=lost, shared_places=shared), RULES)) == 2


def test_short_part_of_a_fast_motion_is_not_split_off() -> None:
    lost, shared = {27: 0.2, 28: 0.1}, {27: 14, 28: 4}
    assert kept(choose_frames(frames(30, 3, continuity=lost, shared_places=shared), RULES)) == [list(range(30))]
    del lost[27]
    assert kept(choose_frames(frames(30, 3, continuity=lost, shared_places=shared), RULES)) == [list(range(28)), []]


def test_single_foreign_frame_is_a_flash_not_a_cut() -> None:
    segments = choose_frames(frames(30, continuity={12: 0.1, 13: 0.1}, skip_continuity={13: 0.95}), RULES)
    assert reasons(segments) == {12: "flash"}
    assert len(segments) == 1


def test_two_consecutive_cuts_are_cuts() -> None:
    segments = choose_frames(frames(30, continuity={12: 0.1, 13: 0.1}, skip_continuity={13: 0.1}), RULES)
    assert [segment.verdicts[0].quality.index for segment in segments] == [0, 12, 13]
    assert reasons(segments) == {12: "short_segment"}


def test_only_a_long_loss_of_view_splits() -> None:
    blocked = {i: 3.0 for i in range(20, 30)}
    segments = choose_frames(frames(90, sharpness=blocked, continuity={30: 0.1}), RULES)
    assert len(segments) == 1
    blocked = {i: 3.0 for i in range(20, 60)}
    segments = choose_frames(frames(90, sharpness=blocked), RULES)
    assert kept(segments) == [list(range(20)), list(range(60, 90))]
    assert segments[1].begins_because == "view lost for 1.4 s before frame 60"


def test_cut_through_black_splits() -> None:
    black = {i: 1.0 for i in range(12, 15)}
    assert len(choose_frames(frames(30, black=black, continuity={15: 0.1}), RULES)) == 2
    assert len(choose_frames(frames(30, black=black, continuity={15: 0.9}), RULES)) == 1


@pytest.mark.parametrize("bad", [{"saturated": {12: 0.9}}, {"damaged": {12: True}}, {"exposure": {12: 3.0}}])
def test_bad_frame_does_not_hide_a_cut(bad: dict[str, dict[int, Any]]) -> None:
    assert len(choose_frames(frames(30, continuity={13: 0.1}, **bad), RULES)) == 2
    assert len(choose_frames(frames(30, **bad), RULES)) == 1


def test_short_segments_are_judged_before_sampling() -> None:
    assert kept(choose_frames(frames(60), replace(RULES, stride=30, min_segment_frames=10))) == [[0, 30]]


def test_black_start_is_not_a_segment() -> None:
    segments = choose_frames(frames(60, black={i: 1.0 for i in range(30)}, exposure={i: 0.0 for i in range(30)}), RULES)
    assert kept(segments) == [list(range(30, 60))]


def test_out_of_body_is_detected_even_if_it_is_most_of_the_video() -> None:
    outside = {i: -0.3 for i in range(70)}
    segments = choose_frames(frames(100, red=outside, continuity={70: 0.1}), RULES)
    assert kept(segments)[-1] == list(range(70, 100))
    assert set(reasons(segments).values()) == {"out_of_body"}


@pytest.mark.parametrize("first", [15, 50, 85])
@pytest.mark.parametrize("red", [0.05, -0.5])
def test_tissue_may_be_whitish_or_in_narrow_band_light(red: float, first: int) -> None:
    segments = choose_frames(frames(100, red={i: red for i in range(first, 100)}), RULES)
    assert kept(segments) == [list(range(100))]
    segments = choose_frames(frames(100, red={i: red for i in range(first)}), RULES)
    assert kept(segments) == [list(range(100))]


def test_switched_light_is_recognised_after_a_cut() -> None:
    qualities = frames(100, red={i: -0.5 for i in range(40, 100)}, continuity={70: 0.05})
    assert kept(choose_frames(qualities, RULES)) == [list(range(70)), list(range(70, 100))]


def test_room_and_switched_light_are_distinguished() -> None:
    red = {i: -0.1 for i in range(20, 30)} | {i: -0.9 for i in range(60, 100)}
    segments = choose_frames(frames(100, red=red, continuity={20: 0.1, 30: 0.1}), RULES)
    assert set(reasons(segments)) == set(range(20, 30))
    assert set(reasons(segments).values()) == {"out_of_body"}


def test_sharp_cloth_does_not_make_tissue_count_as_blocked() -> None:
    cloth = range(70)
    qualities = frames(100, red=dict.fromkeys(cloth, 0.0), sharpness=dict.fromkeys(cloth, 2000.0), continuity={70: 0.1})
    assert kept(choose_frames(qualities, RULES))[-1] == list(range(70, 100))


def test_dense_frames_are_thinned_out_by_motion() -> None:
    slow = {"change": dict.fromkeys(range(1, 240), 1.5), "motion_px": dict.fromkeys(range(1, 240), 0.5)}
    (segment,) = choose_frames(frames(240, 120, **slow), RULES, diagonal_px=800)
    assert [quality.index for quality in segment.kept] == list(range(0, 240, 4))
    assert set(reasons([segment]).values()) == {"no_motion"}
    assert kept(choose_frames(frames(240, 120), RULES, diagonal_px=800)) == [list(range(240))]
    assert kept(choose_frames(frames(60, 30, motion_px=dict.fromkeys(range(60), 0.5)), RULES, 800)) == [list(range(60))]
    every = replace(RULES, min_motion_px=0.0)
    assert kept(choose_frames(frames(240, 120, **slow), every, diagonal_px=800)) == [list(range(240))]


@pytest.mark.parametrize("fps", [30, 120])
def test_repeated_frames_are_kept_once(fps: float) -> None:
    repeats = [i for i in range(120) if i % 5]
    qualities = frames(120, fps, change=dict.fromkeys(repeats, 0.8), motion_px=dict.fromkeys(repeats, 0.0))
    segments = choose_frames(qualities, RULES, diagonal_px=800)
    assert kept(segments) == [list(range(0, 120, 5))]
    assert set(reasons(segments).values()) == {"duplicate"}


def test_stride_selects_every_nth_frame_or_the_sharpest_instead_of_a_bad_one() -> None:
    qualities = frames(20, damaged={10: True}, sharpness={13: 120.0})
    segments = choose_frames(qualities, replace(RULES, stride=5))
    assert kept(segments) == [[0, 5, 13, 15]]
    assert reasons(segments)[10] == "damaged"
    assert reasons(segments)[11] == "between_samples"


def test_fps_uses_the_true_timestamps() -> None:
    qualities = [
        replace(q, timestamp_s=t) for q, t in zip(frames(8), (0, 0.1, 0.5, 0.6, 0.9, 1.0, 1.6, 2.1), strict=True)
    ]
    assert kept(choose_frames(qualities, replace(RULES, fps=2.0))) == [[0, 2, 5, 6, 7]]
    assert kept(choose_frames(qualities, replace(RULES, fps=1000.0))) == [list(range(8))]


def test_fps_equal_to_the_video_rate_keeps_every_frame() -> None:
    qualities = [replace(q, timestamp_s=round(q.index / 30, 6)) for q in frames(300)]
    assert kept(choose_frames(qualities, replace(RULES, fps=30.0))) == [list(range(300))]


def test_max_frames_thins_out_evenly() -> None:
    segments = choose_frames(frames(101), replace(RULES, max_frames=11))
    assert kept(segments) == [list(range(0, 101, 10))]
    assert set(reasons(segments).values()) == {"max_frames"}
    assert kept(choose_frames(frames(5), replace(RULES, max_frames=11))) == [[0, 1, 2, 3, 4]]


def test_keep_all_keeps_every_frame_and_flags_it() -> None:
    qualities = frames(30, sharpness={9: 40.0}, change={20: 0.1}, motion_px={20: 0.0}, continuity={25: 0.1})
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


@pytest.mark.parametrize("count", [1, 2])
def test_video_of_one_or_two_frames(count: int) -> None:
    assert kept(choose_frames(frames(count), replace(RULES, min_segment_frames=1))) == [list(range(count))]
