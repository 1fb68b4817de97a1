"""Which frames are matched with which: the policy of Dense Descriptor Learning (DDL; Liu et al., CVPR 2020).

A frame is matched with each of the next ones (the temporal range). Then later ones are tried with a few keypoints, but
for so many between them (searching). Where one agrees as well as the temporal range does on average, the camera has
come back, and every frame is matched (the spatial range) until one agrees clearly less.

What is worth trying may be told otherwise: nothing (sequential matching), or what looks most alike
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
    """DDL's options by their names.

    Attributes:
        temporal_range: how many frames after a frame are matched with it in any case.
        skip_interval: every how many-th frame is tried beyond.
        test_keypoint_num: keypoints that a frame is tried with.
        min_inlier_ratio: pairs that agree less are not used.
        hysterisis_factor: the spatial range ends where a pair agrees less than this times the temporal range's mean.
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
    """Keypoints of two frames that belong together.

    Attributes:
        rows: (M, 2) int64, zero-based rows of the first frame's keypoints and of the second's, those that agree.
        inlier_ratio: which share of all matches these are, 0..1; 0 without a match.
    """

    rows: Integers
    inlier_ratio: float


# Matches a frame with another, with so many of its keypoints; None for all of them.
MatchPair = Callable[[int, int, int | None], PairMatches]
# The rows that are worth trying with a frame, ascending.
Candidates = Callable[[int], Iterable[int]]


def match_from(
    first: int, frame_count: int, policy: DdlPolicy, match: MatchPair, candidates: Candidates | None = None
) -> Iterator[tuple[int, PairMatches]]:
    """Match a frame with later ones.

    Args:
        first: its row.
        frame_count: of the video.
        policy: DDL's options.
        match: matches two frames.
        candidates: beyond the temporal range; by default every `policy.skip_interval`-th frame.

    Yields:
        The row of each frame that agrees well enough, with the matches.
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
