"""Matching: frames → tracks. Points of keyframes are found in other frames, or keypoints are matched pair by pair."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from descriptor.flow.flow_finder import FlowFinder
from descriptor.flow.follow import (
    KnownPoints,
    check_keyframes,
    choose_keyframes,
    follow_points,
    keyframe_directions,
    report_tracks,
)
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.combined_finder import CombinedFinder
from descriptor.matching.config import MatchConfig
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.global_descriptor import FrameSimilarity
from descriptor.matching.guided_finder import GuidedFinder
from descriptor.matching.keypoint_matching import KeypointMatcher
from descriptor.matching.pair_policy import Candidates, DdlPolicy, match_from
from pipeline.arrays import Float32s, Ints
from pipeline.data.array_files import read_arrays, write_arrays
from pipeline.data.tracks import Correspondences, Tracks
from pipeline.finder import Finder
from pipeline.outputs.files import write_json
from pipeline.paths import MappingPaths
from pipeline.progress import progress
from pipeline.report import StageReport

# Keyframes in which the descriptor searches for the points of a keyframe, by their distance in keyframes.
_DESCRIPTOR_OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
# The camera may come back at any time: this many keyframes beyond these, this many frames apart.
_REVISITS, _REVISITS_APART = 4, 10

# Frame indices, keypoints (N, 2) of each frame, and matches (M, 2) of pairs of rows → tracks.
TracksFromMatches = Callable[[Sequence[int], Sequence[Float32s], Mapping[tuple[int, int], Ints]], Tracks]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointFinders:
    """What finds the points of frames in other frames.

    Attributes:
        frames: of the sequence.
        guided: finds points by descriptors; None for flow alone.
        uses_flow: whether optical flow is used.
        known: what flow found before for the same frames and number of points.
        tracks_from_matches: joins matches of pairs to tracks.
    """

    frames: WorkingFrames
    guided: GuidedFinder | None
    uses_flow: bool
    known: Correspondences | None
    tracks_from_matches: TracksFromMatches


def match_stage(
    config: MatchConfig, finders: PointFinders, paths: MappingPaths, seed: int, report: StageReport
) -> list[Path]:
    """Find the tracks of a video.

    Args:
        config: the settings.
        finders: what finds points.
        paths: where everything goes; a killed run resumes.
        seed: of the random choices.
        report: to fill in.

    Returns:
        The tracks and the keyframes.

    Raises:
        NoReconstruction: if too few frames can be read, or none shows any texture.
    """
    frames, known = finders.frames, finders.known
    with report.timed("keyframes"):
        keyframes, unreadable = (known.keyframes, known.unreadable) if known else choose_keyframes(frames)
        check_keyframes(frames, keyframes, unreadable, report)
    with report.timed("match"):
        if config.pairs == "keyframes":
            tracks = _follow(config, finders, keyframes, paths, seed)
        else:
            tracks = _match_pairs(config, finders, paths, seed)
    tracks.save(paths.tracks)
    write_json(paths.keyframes, {"keyframes": keyframes.tolist(), "unreadable": unreadable})
    report_tracks(Correspondences(tracks, keyframes, unreadable), report)
    return [paths.tracks, paths.keyframes]


def _follow(config: MatchConfig, finders: PointFinders, keyframes: Ints, paths: MappingPaths, seed: int) -> Tracks:
    """Tracks of the points of keyframes."""
    frames, guided = finders.frames, finders.guided
    flow = _flow(finders, keyframes)
    similarity = None if guided is None else FrameSimilarity(guided.described, len(frames), seed)
    rows = _descriptor_rows(len(frames), keyframes.tolist(), similarity, everywhere=flow is None)
    find = CombinedFinder(flow, guided, rows)
    return follow_points(frames, keyframes, find, config.points, paths.correspondences)


def _flow(finders: PointFinders, keyframes: Ints) -> Finder | None:
    if not finders.uses_flow:
        return None
    if finders.known is not None:
        logger.info("optical flow is taken from the first SfM")
        return KnownPoints(finders.known.tracks)
    return FlowFinder(finders.frames, keyframe_directions(len(finders.frames), keyframes))


def _match_pairs(config: MatchConfig, given: PointFinders, paths: MappingPaths, seed: int) -> Tracks:
    """Tracks of keypoints that are matched pair by pair; the matches of each frame are kept for a resumed run."""
    frames = given.frames
    assert given.guided is not None
    described = given.guided.described
    matcher = KeypointMatcher(frames, described, config.keypoints, seed)
    policy, candidates = _pair_policy(config, len(frames), described, seed)
    matches: dict[tuple[int, int], Ints] = {}
    for first in progress(range(len(frames)), "matching"):
        kept = paths.correspondences / f"{first:06d}.npz"
        arrays = read_arrays(kept, ("second", "rows"))
        if arrays is None:
            found = list(match_from(first, len(frames), policy, matcher.match, candidates))
            second = np.repeat([row for row, _ in found], [len(pair.rows) for _, pair in found]).astype(np.int64)
            rows = np.concatenate([np.zeros((0, 2), np.int64), *(pair.rows for _, pair in found)])
            arrays = {"second": second, "rows": rows}
            write_arrays(kept, arrays)
        second, rows = arrays["second"], arrays["rows"]
        matches |= {(first, int(row)): rows[second == row] for row in np.unique(second)}
    keypoints = [matcher.keypoints(row) for row in range(len(frames))]
    return given.tracks_from_matches(frames.frame_index, keypoints, matches)


def _pair_policy(
    config: MatchConfig, frame_count: int, described: DescribedFrames, seed: int
) -> tuple[DdlPolicy, Candidates | None]:
    """The policy of `config.pairs`, and which later frames it tries."""
    policy = config.policy
    if config.pairs == "similar":
        similarity = FrameSimilarity(described, frame_count, seed)

        def alike(first: int) -> list[int]:
            later = range(first + policy.temporal_range + 1, frame_count)
            return similarity.most_similar(first, later, config.similar_frames, policy.skip_interval)

        return policy, alike
    if config.pairs == "sequential":
        return policy, lambda first: ()
    if config.pairs == "exhaustive":
        return replace(policy, temporal_range=frame_count), None
    return policy, None


def _descriptor_rows(
    frame_count: int, keyframes: Sequence[int], similarity: FrameSimilarity | None, *, everywhere: bool
) -> Callable[[int], list[int]]:
    """The frames in which the descriptor searches for a keyframe's points: keyframes near and far, the most similar of
    the others, and, without flow, all frames up to the next keyframes."""

    def rows(row: int) -> list[int]:
        place = keyframes.index(row)
        places = [place + sign * offset for offset in _DESCRIPTOR_OFFSETS for sign in (1, -1)]
        found = {keyframes[each] for each in places if 0 <= each < len(keyframes)}
        if similarity is not None:
            reach = _DESCRIPTOR_OFFSETS[-1]
            farther = [*keyframes[: max(0, place - reach)], *keyframes[place + reach + 1 :]]
            least = float(similarity.between(row, sorted(found)).min()) if farther else 0.0
            found |= set(similarity.most_similar(row, farther, _REVISITS, _REVISITS_APART, least))
        if everywhere:
            first = keyframes[place - 1] if place else 0
            end = keyframes[place + 1] if place + 1 < len(keyframes) else frame_count - 1
            found |= set(range(first, end + 1)) - {row}
        return sorted(found)

    return rows
