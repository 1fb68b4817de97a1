"""Select the frames of sequences: split at hard cuts, choose by quality and motion, explain every rejection."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.selection.frame_quality import DARK_EXPOSURE, DARK_SHARE, WHITE_SHARE, FrameQuality
from data_prep.selection.out_of_body import FOREIGN_COLOUR_LOG2, find_out_of_body
from data_prep.selection.view_changes import ViewChanges, find_flashes, find_steady_views, find_view_changes
from pipeline.arrays import Bools, Float64s

_LOST_VIEW_S = 1.0
_FEATURELESS = 0.12
# A duplicate differs slightly after compression, but much less than its neighbours differ from each other. Many of
# these may be duplicates as well, so the typical change is a high quantile. Luma levels; smaller changes are rounding.
_REPEAT_CHANGE = 0.5
_REPEAT_MOTION_PX = 0.1
_REPEAT_SHARE = 0.25
_USUAL_QUANTILE = 0.9
_NEIGHBOURHOOD_S = 0.5
# Closer in time than this, a frame is redundant if it moved less than this fraction of the diagonal.
_DENSE_S = 1 / 30
_DENSE_MOTION = 0.0025
# Tolerance for the rounding of timestamps to the container's clock.
_ROUNDING_S = 0.002


@dataclass(frozen=True)
class ChoiceRules:
    """Settings for frame selection; `ExtractConfig` documents them for users.

    Attributes:
        stride: select one frame of every `stride`, >= 1.
        fps: select one frame every 1 / `fps` seconds instead; None to use `stride`.
        max_frames: maximum number of frames in total, None for no limit.
        keep_all: keep every sampled frame regardless of quality; cuts still split.
        min_sharpness: a frame is blurred below this fraction of its neighbours' median sharpness.
        min_motion_px: a frame with less motion since the last kept frame is redundant; px of the source.
        min_segment_frames: a segment with fewer usable frames is not written.
        split_at_cuts: make one segment per stretch between cuts; otherwise a single segment.
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
    """The decision on one frame.

    Attributes:
        quality: its measurements.
        reason: why it is rejected, a key of `REASONS`; None if it is kept.
        flags: its defects, whether or not it is kept.
    """

    quality: FrameQuality
    reason: str | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """A stretch of the video without a cut.

    Attributes:
        verdicts: one per frame, in order.
        begins_because: "start", or the cut before it.
    """

    verdicts: tuple[Verdict, ...]
    begins_because: str

    @property
    def kept(self) -> list[FrameQuality]:
        return [verdict.quality for verdict in self.verdicts if verdict.reason is None]


REASONS: Mapping[str, str] = {
    "damaged": "the decoder concealed missing data in it, or it is predicted from such a frame",
    "dark": f"more than {DARK_SHARE:.0%} of the content area is black, or its mean luma is below {DARK_EXPOSURE:g}",
    "white": f"more than {WHITE_SHARE:.0%} of the content area is saturated",
    "out_of_body": f"its colour differs by {FOREIGN_COLOUR_LOG2:g} or more in log2(R/G), log2(B/G) from tissue, and "
    "the view was lost at the colour change",
    "blocked": f"almost no detail: sharpness below {_FEATURELESS:g} of the video's median (lens touching or covered)",
    "flash": "it matches neither the previous nor the next frame, and these match each other",
    "duplicate": "it repeats the previous frame: nothing moved, and no 16x16 block differs by "
    f"{_REPEAT_SHARE:g} of the typical change within {_NEIGHBOURHOOD_S:g} s",
    "blurred": f"sharpness below min_sharpness of the median within {_NEIGHBOURHOOD_S:g} s",
    "no_motion": "moved less than min_motion_px since the last kept frame, or is within "
    f"{1000 * _DENSE_S:.0f} ms of it and moved less than {_DENSE_MOTION:.2%} of the diagonal",
    "between_samples": "not selected by stride or fps",
    "max_frames": "removed by even thinning to max_frames",
    "short_segment": "its segment has fewer than min_segment_frames usable frames",
}
_BRIDGED = {"damaged", "dark", "white"}
_UNUSABLE = {"damaged", "dark", "white", "out_of_body", "blocked", "flash"}


def choose_frames(qualities: Sequence[FrameQuality], rules: ChoiceRules, diagonal_px: float = 0.0) -> list[Segment]:
    """Split the frames at hard cuts and decide on each frame.

    Args:
        qualities: all frames, in order.
        rules: the settings.
        diagonal_px: diagonal of the source's frames, used to thin out video above 30 frames per second; 0 disables it.

    Returns:
        All segments in order, including those without kept frames; together they hold every frame once.
    """
    changes = find_view_changes(qualities)
    flags = _find_flags(qualities, changes.changed, rules)
    slots = _sampling_slots(qualities, rules)
    dense_px = _DENSE_MOTION * diagonal_px if rules.min_motion_px > 0 else 0.0
    segments = []
    stretches = [(0, len(qualities), "start")]
    if rules.split_at_cuts:
        stretches = _split_at_cuts(qualities, flags, changes, rules)
    for first, end, begins_because in stretches:
        reasons = _choose_in_segment(qualities[first:end], flags[first:end], slots[first:end], rules, dense_px)
        verdicts = zip(qualities[first:end], reasons, map(tuple, flags[first:end]), strict=True)
        segments.append(Segment(tuple(Verdict(*verdict) for verdict in verdicts), begins_because))
    return segments if rules.max_frames is None else _thin_out(segments, rules.max_frames)


def _find_flags(qualities: Sequence[FrameQuality], changed: Bools, rules: ChoiceRules) -> list[list[str]]:
    sharpness = np.array([quality.sharpness for quality in qualities])
    dark = np.array([quality.is_dark for quality in qualities])
    white = np.array([quality.is_white for quality in qualities])
    damaged = np.array([quality.damaged for quality in qualities])
    lit = ~dark & ~white
    flashes = find_flashes(qualities, changed)
    colour = np.array([(quality.red, quality.blue) for quality in qualities])
    seen = lit & ~damaged & ~flashes
    outside = find_out_of_body(colour, seen, find_steady_views(qualities, flashes))
    # A white cloth is sharper than tissue and would raise the typical sharpness.
    inside = lit & ~outside
    usual_sharpness = float(np.median(sharpness[inside])) if inside.any() else 0.0
    tests = {
        "damaged": damaged,
        "dark": dark,
        "white": white,
        "out_of_body": outside,
        "blocked": lit & (sharpness < _FEATURELESS * usual_sharpness),
        "flash": flashes,
    }
    timestamps_s = np.array([quality.timestamp_s for quality in qualities])
    good = ~np.any([tests[name] for name in tests], axis=0)
    tests["duplicate"] = good & _repeated(qualities, good, timestamps_s)
    good &= ~tests["duplicate"]
    usual_sharpness_nearby = _local_quantile(sharpness, 0.5, good, timestamps_s)
    tests["blurred"] = good & (sharpness < rules.min_sharpness * usual_sharpness_nearby)
    return [[name for name, found in tests.items() if found[i]] for i in range(len(qualities))]


def _repeated(qualities: Sequence[FrameQuality], good: Bools, timestamps_s: Float64s) -> Bools:
    change = np.array([quality.change for quality in qualities])
    motion_px = np.array([quality.motion_px for quality in qualities])
    usual = _local_quantile(change, _USUAL_QUANTILE, good, timestamps_s)
    return (motion_px < _REPEAT_MOTION_PX) & (change < np.maximum(_REPEAT_CHANGE, _REPEAT_SHARE * usual))


def _local_quantile(values: Float64s, share: float, good: Bools, timestamps_s: Float64s) -> Float64s:
    """(N,): the quantile of the good frames' values around each good frame."""
    first = np.searchsorted(timestamps_s, timestamps_s - _NEIGHBOURHOOD_S)
    end = np.searchsorted(timestamps_s, timestamps_s + _NEIGHBOURHOOD_S, side="right")
    quantile = np.zeros(len(values))
    for i in np.flatnonzero(good):
        window = slice(first[i], end[i])
        quantile[i] = np.quantile(values[window][good[window]], share)
    return quantile


def _split_at_cuts(
    qualities: Sequence[FrameQuality], flags: Sequence[Sequence[str]], changes: ViewChanges, rules: ChoiceRules
) -> list[tuple[int, int, str]]:
    """(first, end, reason for the start) of each segment, as positions in `qualities`."""
    starts = [(0, "start")]
    last_usable: int | None = None
    for i, quality in enumerate(qualities):
        if _UNUSABLE.intersection(flags[i]):
            continue
        if last_usable is not None:
            why = _cut_between(qualities, flags, changes.changed, last_usable, i)
            if why:
                starts.append((i, f"{why} before frame {quality.index}"))
        last_usable = i
    usable = np.cumsum([0, *(not frame_flags for frame_flags in flags)])
    for place in range(len(starts) - 1, 0, -1):
        before, first, end = starts[place - 1][0], starts[place][0], [*starts, (len(qualities), "")][place + 1][0]
        shorter = min(usable[first] - usable[before], usable[end] - usable[first])
        # Splitting here would reject a short part of a fast camera motion as a short segment.
        if changes.doubtful[first] and shorter < rules.min_segment_frames:
            del starts[place]
    ends = [first for first, _ in starts[1:]] + [len(qualities)]
    return [(first, end, why) for (first, why), end in zip(starts, ends, strict=True)]


def _cut_between(
    qualities: Sequence[FrameQuality], flags: Sequence[Sequence[str]], changed: Bools, before: int, after: int
) -> str | None:
    # Views are comparable across these frames; across other unusable frames they are not.
    if all(_BRIDGED.intersection(flags[i]) for i in range(before + 1, after)):
        return "hard cut" if changed[after] else None
    gap_s = qualities[after].timestamp_s - qualities[before].timestamp_s
    return f"view lost for {gap_s:.1f} s" if gap_s > _LOST_VIEW_S else None


def _sampling_slots(qualities: Sequence[FrameQuality], rules: ChoiceRules) -> list[int]:
    """The sampling interval of each frame; one frame is chosen per interval."""
    first = qualities[0]
    if rules.fps is not None:
        timestamps_s = np.array([quality.timestamp_s for quality in qualities])
        intervals_s = np.diff(timestamps_s)
        # Timestamps are rounded, so a frame up to half a frame early still counts as on time.
        early = min(0.5, 0.5 * rules.fps * float(intervals_s.min())) if len(intervals_s) else 0.0
        return list(np.floor((timestamps_s - timestamps_s[0]) * rules.fps + early + 1e-3).astype(int))
    return [(quality.index - first.index) // rules.stride for quality in qualities]


def _choose_in_segment(
    qualities: Sequence[FrameQuality],
    flags: Sequence[Sequence[str]],
    slots: Sequence[int],
    rules: ChoiceRules,
    dense_px: float,
) -> list[str | None]:
    reasons: list[str | None] = ["between_samples"] * len(qualities)
    moved_px, kept_s = math.inf, -math.inf
    for members in _group(slots):
        for i in members:
            moved_px += qualities[i].motion_px
        chosen = members[0] if rules.keep_all else _best(members, qualities, flags)
        if rules.keep_all or not flags[chosen]:
            shown_s = qualities[chosen].timestamp_s
            is_dense = shown_s - kept_s < _DENSE_S - _ROUNDING_S
            still = moved_px < max(rules.min_motion_px, dense_px * is_dense) and not rules.keep_all
            reasons[chosen] = "no_motion" if still else None
            if not still:
                moved_px, kept_s = sum(qualities[i].motion_px for i in members if i > chosen), shown_s
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
    """The frame on the sampling grid if it has no defect, otherwise the sharpest frame without defects."""
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
