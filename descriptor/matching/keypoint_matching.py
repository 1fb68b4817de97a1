"""Keypoints and their matches by dense descriptors, as in Dense Descriptor Learning (DDL).

SIFT (Lowe, IJCV 2004) detects the keypoints, without its descriptors. A keypoint is matched to the best cell of the
other frame's map if the reverse match ends near its start, and assigned to the nearest keypoint there. Matches that
agree with the epipolar geometry are kept.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.matcher import match
from descriptor.matching.pair_policy import PairMatches
from pipeline.arrays import Bools, Float32s, Float64s, Ints
from pipeline.command.bounds import Count, Positive, Settings

# DDL's distances are in px of frames downsampled by this.
_DDL_DOWNSAMPLING = 4.0
_MIN_MATCHES = 16
_CONFIDENCE, _MAX_TRIALS = 0.999, 2000


@dataclass(frozen=True)
class KeypointRules(Settings):
    """How pairs of frames are matched: options of Dense Descriptor Learning (DDL) by their names."""

    max_feature_detection: Count = 3000
    """DDL: largest number of keypoints of a frame, the strongest of SIFT's."""
    cross_check_distance: Positive = 5.0
    """DDL: largest distance from the start after matching back, px at a quarter of the frame's size."""
    residual_threshold: Positive = 5.0
    """DDL: largest distance of a match from its epipolar line, px at a quarter of the frame's size."""
    octave_layers: Count = 8
    """DDL: of SIFT's detector."""
    contrast_threshold: Positive = 5e-5
    """DDL: of SIFT's detector."""
    edge_threshold: Positive = 100.0
    """DDL: of SIFT's detector."""
    sigma: Positive = 1.1
    """DDL: of SIFT's detector."""


class KeypointMatcher:
    """Detects keypoints once per frame, and matches frames.

    Args:
        frames: working frames, in which keypoints are detected.
        described: the same frames, described.
        rules: DDL's options.
        seed: seed of the random choices.
    """

    def __init__(self, frames: WorkingFrames, described: DescribedFrames, rules: KeypointRules, seed: int) -> None:
        self._frames, self._described, self._rules = frames, described, rules
        self._seed = seed
        self._keypoints: dict[int, Float32s] = {}
        self._detector = cv2.SIFT.create(
            rules.max_feature_detection,
            rules.octave_layers,
            rules.contrast_threshold,
            rules.edge_threshold,
            rules.sigma,
        )

    def keypoints(self, row: int) -> Float32s:
        """The keypoints (N, 2) px of a frame, COLMAP's convention; empty if it cannot be read or has no texture."""
        if row not in self._keypoints:
            frame = self._frames[row]
            found = [] if frame is None else self._detector.detect(frame.image, frame.mask)
            # SIFT repeats a keypoint for each orientation and may return more than requested.
            strongest = sorted(found, key=lambda each: -each.response)[: self._rules.max_feature_detection]
            places = np.array([each.pt for each in strongest], np.float32).reshape(-1, 2)
            self._keypoints[row] = self._frames.colmap_from_working(np.unique(places, axis=0))
        return self._keypoints[row]

    def match(self, first: int, second: int, count: int | None = None) -> PairMatches:
        """Match two frames; see `descriptor.matching.pair_policy.MatchPair`."""
        self._described.work_on(first)
        source, target = self._described[first], self._described[second]
        keypoints, others = self.keypoints(first), self.keypoints(second)
        nothing = PairMatches(np.zeros((0, 2), np.int64), 0.0)
        if source is None or target is None or not len(keypoints) or not len(others):
            return nothing
        chosen = np.arange(len(keypoints))
        if count is not None and count < len(chosen):
            # Seeded by the pair, so that the choice does not depend on earlier matches.
            random = np.random.default_rng((self._seed, first, second))
            chosen = np.sort(random.choice(len(keypoints), count, replace=False))
        matches = match(self._described.engine, source, keypoints[chosen].astype(np.float64), target)
        image_size, small_size = source.described.frame.image_size, source.described.frame.small_size
        ddl_px_per_cell = image_size[0] / small_size[0] / _DDL_DOWNSAMPLING
        kept = matches.return_px * ddl_px_per_cell <= self._rules.cross_check_distance
        rows = _snapped(chosen[kept], matches.target[kept], others, _DDL_DOWNSAMPLING * ddl_px_per_cell)
        if len(rows) < _MIN_MATCHES:
            return nothing
        agree = self._agree(keypoints[rows[:, 0]], others[rows[:, 1]])
        return PairMatches(rows[agree], float(agree.mean()))

    def _agree(self, first: Float32s, second: Float32s) -> Bools:
        """Which matches (M, 2), (M, 2) px are inliers of the epipolar geometry."""
        threshold_px = _DDL_DOWNSAMPLING * self._rules.residual_threshold
        _, inliers = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, threshold_px, _CONFIDENCE, _MAX_TRIALS)
        return np.zeros(len(first), bool) if inliers is None else np.asarray(inliers[:, 0] > 0)


def _snapped(source: Ints, places: Float64s, keypoints: Float32s, most_px: float) -> Ints:
    """Assign each match to the nearest target keypoint within a distance; each target keypoint is used once.

    Returns:
        (M, 2) int64, rows of source and target keypoints.
    """
    if not len(source):
        return np.zeros((0, 2), np.int64)
    found = cv2.BFMatcher(cv2.NORM_L2).match(places.astype(np.float32), keypoints)
    nearest = np.array([each.trainIdx for each in found], np.int64)
    distance = np.array([each.distance for each in found])
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] <= most_px]
    _, first = np.unique(nearest[order], return_index=True)
    kept = np.sort(order[first])
    return np.column_stack([source[kept], nearest[kept]]).astype(np.int64)
