"""Which frames become a sequence: hard cuts split the video, quality and motion choose, and every "no" has a reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.frame_quality import DARK_EXPOSURE, DARK_SHARE, WHITE_SHARE, FrameQuality

# Measured on real sinus endoscopy: consecutive frames keep a continuity of 0.46 or more, views 150 frames apart 0.27
# or less.
_CUT_CONTINUITY = 0.35
_FLASH_CONTINUITY = 0.5
_LOST_VIEW_S = 1.0
_FOREIGN_COLOUR_LOG2 = 0.6
_FEATURELESS = 0.12
# A repeated frame comes out of the codec a little different, but far less so than its neighbours from each other.
_REPEAT_CHANGE = 2.0
_REPEAT_MOTION_PX = 0.1
_REPEAT_CHANGE_SHARE = 0.25
_NEIGHBOURHOOD_S = 0.5


@dataclass(frozen=True)
class ChoiceRules:
    """Settings of the choice; `ExtractConfig` documents them for users.

    Attributes:
        stride: one frame of every `stride`, >= 1.
        fps: one frame of every 1 / `fps` seconds instead, None for `stride`.
        max_frames: no more than this many in all, None for no limit.
        keep_all: keep every sampled frame whatever its quality; cuts still split.
        min_sharpness: a frame is blurred below this share of its neighbours' median sharpness.
        min_motion_px: a frame that moved less than this since the last kept one adds nothing; px of the source.
        min_segment_frames: a segment with fewer usable frames is not written.
        split_at_cuts: make a segment of each stretch between cuts; otherwise one of all.
    """

    stride: int
    fps: float | None
    max_frames: int | None
    keep_all: bool
    min_sharpness: float
    min_motion_px: float
    min_segment_frames: int
    split_at_cuts: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """One frame's fate.

    Attributes:
        quality: its measurements.
        reason: why it is not kept, a key of `REASONS`; None if it is kept.
        flags: what is wrong with it, whether or not it is kept.
    """

    quality: FrameQuality
    reason: str | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """A stretch of the video without a cut.

    Attributes:
        verdicts: one a frame, in order.
        begins_because: "start", or what the cut before it was.
    """

    verdicts: tuple[Verdict, ...]
    begins_because: str

    @property
    def kept(self) -> list[FrameQuality]:
        return [verdict.quality for verdict in self.verdicts if verdict.reason is None]


REASONS: Mapping[str, str] = {
    "damaged": "the decoder had to guess parts of it, or it is predicted from such a frame",
    "dark": f"more than {DARK_SHARE:.0%} of the content area is black, or its mean luma is below {DARK_EXPOSURE:g}",
    "white": f"more than {WHITE_SHARE:.0%} of the content area is saturated",
    "out_of_body": f"its colour is {_FOREIGN_COLOUR_LOG2:g} or more in log2(R/G), log2(B/G) from the video's median",
    "blocked": f"hardly any detail: sharpness below {_FEATURELESS:g} of the video's median (lens touching or covered)",
    "flash": "it fits neither the frame before nor the one after, which fit each other",
    "duplicate": f"no 16x16 block differs from the frame before by {_REPEAT_CHANGE:g} levels of luma, or nothing moved "
    f"and none differs by {_REPEAT_CHANGE_SHARE:g} of what is usual within {_NEIGHBOURHOOD_S:g} s",
    "blurred": f"sharpness below min_sharpness of the median within {_NEIGHBOURHOOD_S:g} s",
    "no_motion": "moved less than min_motion_px since the last kept frame",
    "between_samples": "not the frame that stride or fps asks for",
    "max_frames": "thinned out evenly to max_frames",
    "short_segment": "its segment has fewer than min_segment_frames usable frames",
}
_BRIDGED = {"damaged", "dark", "white"}
_UNUSABLE = {"damaged", "dark", "white", "out_of_body", "blocked", "flash"}


def choose_frames(qualities: Sequence[FrameQuality], rules: ChoiceRules) -> list[Segment]:
    """Split the frames at hard cuts and decide on each.

    Args:
        qualities: all frames, in order.
        rules: the settings.

    Returns:
        All segments in order, also those of which no frame is kept; together they hold every frame once.
    """
    flags = _find_flags(qualities, rules)
    slots = _sampling_slots(qualities, rules)
    segments = []
    whole = [(0, len(qualities), "start")]
    for first, end, begins_because in _split_at_cuts(qualities, flags) if rules.split_at_cuts else whole:
        reasons = _choose_in_segment(qualities[first:end], flags[first:end], slots[first:end], rules)
        verdicts = zip(qualities[first:end], reasons, map(tuple, flags[first:end]), strict=True)
        segments.append(Segment(tuple(Verdict(*verdict) for verdict in verdicts), begins_because))
    return segments if rules.max_frames is None else _thin_out(segments, rules.max_frames)


def _find_flags(qualities: Sequence[FrameQuality], rules: ChoiceRules) -> list[list[str]]:
    sharpness = np.array([quality.sharpness for quality in qualities])
    dark = np.array([quality.is_dark for quality in qualities])
    white = np.array([quality.is_white for quality in qualities])
    lit = ~dark & ~white
    usual_sharpness = float(np.median(sharpness[lit])) if lit.any() else 0.0
    tests = {
        "damaged": np.array([quality.damaged for quality in qualities]),
        "dark": dark,
        "white": white,
        "out_of_body": lit & _foreign_colour(qualities, lit),
        "blocked": lit & (sharpness < _FEATURELESS * usual_sharpness),
        "flash": _find_flashes(qualities),
    }
    timestamps_s = np.array([quality.timestamp_s for quality in qualities])
    good = ~np.any([tests[name] for name in tests], axis=0)
    tests["duplicate"] = good & _repeated(qualities, good, timestamps_s)
    good &= ~tests["duplicate"]
    tests["blurred"] = good & (sharpness < rules.min_sharpness * _local_median(sharpness, good, timestamps_s))
    return [[name for name, found in tests.items() if found[i]] for i in range(len(qualities))]


def _foreign_colour(qualities: Sequence[FrameQuality], lit: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    colour = np.array([(quality.red, quality.blue) for quality in qualities])
    if not lit.any():
        return np.zeros(len(qualities), bool)
    # Where much of the video lies outside the body, the reddish part still is the tissue.
    reddish = lit & (colour[:, 0] > 0.2)
    tissue = reddish if reddish.sum() >= 0.1 * lit.sum() else lit
    distance = np.linalg.norm(colour - np.median(colour[tissue], axis=0), axis=1)
    # A video whose own colour varies widely gets more room.
    allowed = max(_FOREIGN_COLOUR_LOG2, 4 * float(np.median(distance[tissue])))
    return distance > allowed


def _find_flashes(qualities: Sequence[FrameQuality]) -> npt.NDArray[np.bool_]:
    flashes = np.zeros(len(qualities), bool)
    for i, (quality, following) in enumerate(zip(qualities, qualities[1:], strict=False)):
        skips = following.skip_continuity
        fits_neither = quality.continuity < _CUT_CONTINUITY and following.continuity < _CUT_CONTINUITY
        flashes[i] = fits_neither and skips is not None and skips >= _FLASH_CONTINUITY
    return flashes


def _repeated(
    qualities: Sequence[FrameQuality], good: npt.NDArray[np.bool_], timestamps_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    change = np.array([quality.change for quality in qualities])
    still = np.array([quality.motion_px < _REPEAT_MOTION_PX for quality in qualities])
    usual = _local_median(change, good, timestamps_s)
    return (change < _REPEAT_CHANGE) | (still & (change < _REPEAT_CHANGE_SHARE * usual))


def _local_median(
    values: npt.NDArray[np.float64], good: npt.NDArray[np.bool_], timestamps_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    first = np.searchsorted(timestamps_s, timestamps_s - _NEIGHBOURHOOD_S)
    end = np.searchsorted(timestamps_s, timestamps_s + _NEIGHBOURHOOD_S, side="right")
    median = np.zeros(len(values))
    for i in np.flatnonzero(good):
        window = slice(first[i], end[i])
        median[i] = np.median(values[window][good[window]])
    return median


def _split_at_cuts(qualities: Sequence[FrameQuality], flags: Sequence[Sequence[str]]) -> list[tuple[int, int, str]]:
    """(first, end, why it begins) of each segment, as positions in `qualities`."""
    starts = [(0, "start")]
    last_usable: int | None = None
    for i, quality in enumerate(qualities):
        if _UNUSABLE.intersection(flags[i]):
            continue
        if last_usable is not None:
            why = _cut_between(qualities, flags, last_usable, i)
            if why:
                starts.append((i, f"{why} before frame {quality.index}"))
        last_usable = i
    ends = [first for first, _ in starts[1:]] + [len(qualities)]
    return [(first, end, why) for (first, why), end in zip(starts, ends, strict=True)]


def _cut_between(
    qualities: Sequence[FrameQuality], flags: Sequence[Sequence[str]], before: int, after: int
) -> str | None:
    # Continuity bridges these; across other unusable frames it does not say whether the view is the same.
    if all(_BRIDGED.intersection(flags[i]) for i in range(before + 1, after)):
        return "hard cut" if qualities[after].continuity < _CUT_CONTINUITY else None
    gap_s = qualities[after].timestamp_s - qualities[before].timestamp_s
    return f"view lost for {gap_s:.1f} s" if gap_s > _LOST_VIEW_S else None


def _sampling_slots(qualities: Sequence[FrameQuality], rules: ChoiceRules) -> list[int]:
    """The sampling interval that each frame falls in; one frame is wanted of each."""
    first = qualities[0]
    if rules.fps is not None:
        timestamps_s = np.array([quality.timestamp_s for quality in qualities])
        intervals_s = np.diff(timestamps_s)
        # A frame shown up to half a frame early still is the one that was asked for: timestamps are rounded.
        early = min(0.5, 0.5 * rules.fps * float(intervals_s.min())) if len(intervals_s) else 0.0
        return list(np.floor((timestamps_s - timestamps_s[0]) * rules.fps + early + 1e-3).astype(int))
    return [(quality.index - first.index) // rules.stride for quality in qualities]


def _choose_in_segment(
    qualities: Sequence[FrameQuality], flags: Sequence[Sequence[str]], slots: Sequence[int], rules: ChoiceRules
) -> list[str | None]:
    reasons: list[str | None] = ["between_samples"] * len(qualities)
    moved_px = math.inf
    for members in _group(slots):
        for i in members:
            moved_px += qualities[i].motion_px
        chosen = members[0] if rules.keep_all else _best(members, qualities, flags)
        if rules.keep_all or not flags[chosen]:
            still = moved_px < rules.min_motion_px and not rules.keep_all
            reasons[chosen] = "no_motion" if still else None
            moved_px = moved_px if still else sum(qualities[i].motion_px for i in members if i > chosen)
        for i in members:
            if flags[i] and not (rules.keep_all and i == chosen):
                reasons[i] = flags[i][0]
    usable = sum(not frame_flags for frame_flags in flags)
    if usable < rules.min_segment_frames and not rules.keep_all:
        return [reason or "short_segment" for reason in reasons]
    return reasons


def _group(slots: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i, slot in enumerate(slots):
        groups.setdefault(slot, []).append(i)
    return list(groups.values())


def _best(members: Sequence[int], qualities: Sequence[FrameQuality], flags: Sequence[Sequence[str]]) -> int:
    """The frame that was asked for, or in its place the sharpest one that nothing is wrong with."""
    good = [i for i in members if not flags[i]]
    if not good or members[0] in good:
        return members[0]
    return max(good, key=lambda i: qualities[i].sharpness)


def _thin_out(segments: Sequence[Segment], max_frames: int) -> list[Segment]:
    kept = [quality.index for segment in segments for quality in segment.kept]
    if len(kept) <= max_frames:
        return list(segments)
    places = np.linspace(0, len(kept) - 1, max_frames).round().astype(int)
    wanted = {kept[place] for place in places}
    return [
        Segment(
            tuple(
                Verdict(verdict.quality, "max_frames", verdict.flags)
                if verdict.reason is None and verdict.quality.index not in wanted
                else verdict
                for verdict in segment.verdicts
            ),
            segment.begins_because,
        )
        for segment in segments
    ]
