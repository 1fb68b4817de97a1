"""The correspondences of the camera's path: points of keyframes followed through the video, or keypoints matched."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from data_prep.bootstrap import followed_before
from descriptor.flow.flow_finder import FlowFinder
from descriptor.flow.follow import (
    KnownPoints,
    check_keyframes,
    choose_keyframes,
    follow_points,
    keyframe_directions,
)
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.global_descriptor import FrameSimilarity
from descriptor.matching.guided_finder import GuidedFinder
from descriptor.matching.keypoint_matching import KeypointMatcher
from descriptor.matching.pair_policy import Candidates, DdlPolicy, match_from
from pipeline.data.array_files import read_arrays, write_arrays
from pipeline.data.tracks import Integers, Tracks
from pipeline.finder import Finder
from pipeline.outputs.files import write_json
from pipeline.progress import progress
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from reconstruction.config import ReconstructConfig
from reconstruction.finder import CombinedFinder
from sfm.input_video import InputVideo
from sfm.mapping.sift import tracks_from_matches

# Keyframes in which the descriptor looks for the points of a keyframe, by their distance in keyframes.
_DESCRIPTOR_OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
# The camera may come back at any time: so many keyframes beyond these, so many frames apart from each other.
_REVISITS, _REVISITS_APART = 4, 10

logger = logging.getLogger(__name__)


def correspond(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    guided: GuidedFinder | None,
    paths: ReconstructionPaths,
    report: StageReport,
) -> None:
    """Follow points from keyframes through the video; writes `tracks` and `keyframes`.

    Raises:
        NoReconstruction: if too few frames can be read, or none shows any texture.
    """
    with report.timed("keyframes"):
        known = followed_before(video.paths.root, config.points)
        keyframes, unreadable = (known.keyframes, known.unreadable) if known else choose_keyframes(frames)
    check_keyframes(len(frames), keyframes, unreadable)
    if unreadable:
        index = video.frame_index[unreadable[0]]
        report.warnings.append(f"{len(unreadable)} frames cannot be read, the first is frame {index}")
        logger.warning("%s, %s", report.warnings[-1], video.source.image(index))
    with report.timed("follow"):
        if config.pairs != "keyframes":
            assert guided is not None
            tracks = _match_pairs(config, video, frames, guided.described, paths)
        else:
            tracks = _follow(config, video, frames, keyframes, guided, known.tracks if known else None, paths)
    tracks.save(paths.tracks)
    write_json(paths.keyframes, {"keyframes": keyframes.tolist(), "unreadable": unreadable})
    report.counts |= {
        "frames": len(frames),
        "unreadable": len(unreadable),
        "keyframes": len(keyframes),
        "tracks": tracks.track_count,
        "observations": len(tracks.frame),
    }
    length = len(tracks.frame) / max(1, tracks.track_count)
    logger.info("%d tracks, each in %.1f frames", tracks.track_count, length)


def _follow(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    keyframes: Integers,
    guided: GuidedFinder | None,
    known: Tracks | None,
    paths: ReconstructionPaths,
) -> Tracks:
    """Tracks of the points of keyframes; what flow would find may be known from the first SfM."""
    flow: Finder | None = None
    if config.correspondences != "descriptor" and known is not None:
        logger.info("optical flow is that of the first SfM")
        flow = KnownPoints(known)
    elif config.correspondences != "descriptor":
        flow = FlowFinder(frames, keyframe_directions(len(frames), keyframes))
    similarity = None if guided is None else FrameSimilarity(guided.described, len(frames), config.seed)
    rows = _descriptor_rows(len(frames), keyframes.tolist(), similarity, everywhere=flow is None)
    find = CombinedFinder(flow, guided, rows)
    return follow_points(frames, video.frame_index, keyframes, find, config.points, paths.correspondences)


def _match_pairs(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    described: DescribedFrames,
    paths: ReconstructionPaths,
) -> Tracks:
    """Tracks of keypoints that are matched pair by pair; what is matched of a frame is kept, and gone on from."""
    matcher = KeypointMatcher(frames, described, config.keypoint_rules, config.seed)
    policy, candidates = _pair_policy(config, len(frames), described)
    matches: dict[tuple[int, int], Integers] = {}
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
    return tracks_from_matches(video.frame_index, keypoints, matches)


def _pair_policy(
    config: ReconstructConfig, frame_count: int, described: DescribedFrames
) -> tuple[DdlPolicy, Candidates | None]:
    """The policy of `config.pairs`, and which frames it tries beyond the next ones."""
    if config.pairs == "similar":
        similarity = FrameSimilarity(described, frame_count, config.seed)

        def alike(first: int) -> list[int]:
            later = range(first + config.temporal_range + 1, frame_count)
            return similarity.most_alike(first, later, config.similar_frames, config.skip_interval)

        return config.policy, alike
    if config.pairs == "sequential":
        return config.policy, lambda first: ()
    if config.pairs == "exhaustive":
        return replace(config.policy, temporal_range=frame_count), None
    return config.policy, None


def _descriptor_rows(
    frame_count: int, keyframes: Sequence[int], similarity: FrameSimilarity | None, *, everywhere: bool
) -> Callable[[int], list[int]]:
    """The frames in which the descriptor looks for a keyframe's points: keyframes near and far, farther ones where they
    look most alike, and, where it is alone, all frames up to the next keyframes."""

    def rows(row: int) -> list[int]:
        place = keyframes.index(row)
        places = [place + sign * offset for offset in _DESCRIPTOR_OFFSETS for sign in (1, -1)]
        found = {keyframes[each] for each in places if 0 <= each < len(keyframes)}
        if similarity is not None:
            reach = _DESCRIPTOR_OFFSETS[-1]
            farther = [*keyframes[: max(0, place - reach)], *keyframes[place + reach + 1 :]]
            least = float(similarity.between(row, sorted(found)).min()) if farther else 0.0
            found |= set(similarity.most_alike(row, farther, _REVISITS, _REVISITS_APART, least))
        if everywhere:
            first = keyframes[place - 1] if place else 0
            end = keyframes[place + 1] if place + 1 < len(keyframes) else frame_count - 1
            found |= set(range(first, end + 1)) - {row}
        return sorted(found)

    return rows
