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

from pipeline.command.bounds import Count, Settings, Share

Integers = npt.NDArray[np.int64]


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
