"""Selection of frame pairs to match: the policy of Dense Descriptor Learning (DDL; Liu et al., CVPR 2020).

A frame is matched with each of the next frames (temporal range). Later frames are then tried at intervals with a few
keypoints (searching). If one reaches the mean inlier ratio of the temporal range, the camera has returned, and every
following frame is matched (spatial range) until the inlier ratio drops clearly.

The candidates for searching can be replaced: by none (sequential matching), or by the most similar frames
(`global_descriptor`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Ints
from pipeline.command.bounds import Count, Settings, Share


@dataclass(frozen=True)
class DdlPolicy(Settings):
    """Which pairs of frames are matched: options of Dense Descriptor Learning (DDL) by their names."""

    temporal_range: Count = 30
    """DDL: frames after a frame that are always matched with it."""
    skip_interval: Count = 5
    """DDL: try every N-th later frame; frames that are tried as similar are as far apart."""
    test_keypoint_num: Count = 200
    """DDL: keypoints with which later frames are tried."""
    min_inlier_ratio: Share = 0.2
    """DDL: pairs with a smaller share of inliers are not used."""
    hysterisis_factor: Share = 0.7
    """DDL: after a match, the following frames are matched until one has fewer inliers than this times the mean."""


@dataclass(frozen=True)
class PairMatches:
    """Matched keypoints of two frames.

    Attributes:
        rows: (M, 2) int64, zero-based rows of keypoints of the first and the second frame; inliers only.
        inlier_ratio: share of the inliers among all matches, 0..1; 0 without a match.
    """

    rows: Ints
    inlier_ratio: float


# Matches two frames with a number of keypoints of the first; None for all of them.
MatchPair = Callable[[int, int, int | None], PairMatches]
# Rows to try with a frame, ascending.
Candidates = Callable[[int], Iterable[int]]


def match_from(
    first: int, frame_count: int, policy: DdlPolicy, match: MatchPair, candidates: Candidates | None = None
) -> Iterator[tuple[int, PairMatches]]:
    """Match a frame with later ones.

    Args:
        first: row of the frame.
        frame_count: number of frames of the video.
        policy: DDL's options.
        match: matches two frames.
        candidates: rows to try beyond the temporal range; default: every `policy.skip_interval`-th frame.

    Yields:
        The row of each frame with a sufficient inlier ratio, and the matches.
    """
    ratios = []
    end = min(frame_count, first + policy.temporal_range + 1)
    for second in range(first + 1, end):
        found = match(first, second, None)
        ratios.append(found.inlier_ratio)
        if found.inlier_ratio >= policy.min_inlier_ratio and len(found.rows):
            yield second, found
    usual = float(np.mean(ratios)) if ratios else 1.0
    second = end
    for candidate in range(end, frame_count) if candidates is None else candidates(first):
        if candidate < second:
            continue
        second = candidate
        if match(first, second, policy.test_keypoint_num).inlier_ratio >= max(usual, policy.min_inlier_ratio):
            while second < frame_count:
                found = match(first, second, None)
                if found.inlier_ratio < policy.hysterisis_factor * max(usual, policy.min_inlier_ratio):
                    break
                if found.inlier_ratio >= policy.min_inlier_ratio and len(found.rows):
                    yield second, found
                second += 1
        second += policy.skip_interval
