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
import numpy.typing as npt

from pipeline.errors import require

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DdlPolicy:
    """DDL's options under their names.

    Attributes:
        temporal_range: number of following frames that are always matched with a frame.
        skip_interval: try every N-th later frame.
        test_keypoint_num: number of keypoints used to try a frame.
        min_inlier_ratio: pairs with a lower inlier ratio are discarded.
        hysterisis_factor: the spatial range ends at an inlier ratio below this times the mean of the temporal range.
    """

    temporal_range: int = 30
    skip_interval: int = 5
    test_keypoint_num: int = 200
    min_inlier_ratio: float = 0.2
    hysterisis_factor: float = 0.7

    def __post_init__(self) -> None:
        for name in ("temporal_range", "skip_interval", "test_keypoint_num"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: choose 1 or more")
        for name in ("min_inlier_ratio", "hysterisis_factor"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: choose from 0 to 1")


@dataclass(frozen=True)
class PairMatches:
    """Matched keypoints of two frames.

    Attributes:
        rows: (M, 2) int64, zero-based rows of keypoints of the first and the second frame; inliers only.
        inlier_ratio: share of the inliers among all matches, 0..1; 0 without a match.
    """

    rows: Integers
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
