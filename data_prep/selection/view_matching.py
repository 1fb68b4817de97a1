"""Match frames that show the same place after too much camera motion for optical flow."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike as Image
from cv2.typing import MatLike as Mask

from pipeline.arrays import Bools, Float32s

_FEATURES = 1000
_CONTRAST = 0.01
_BORDER_PX = 9
_CLAHE_LIMIT, _CLAHE_TILES = 2.0, (8, 8)
# Lowe's ratio test; loose, because matches must also agree on one transform.
_RATIO = 0.9
# Tolerances for matches that support the same transform: fractions of the diagonal, degrees, octaves.
_OFFSET = 0.06
_TURN_DEG = 25.0
_OCTAVES = 0.6
# Matches closer than this fraction of the diagonal count once, because a corner has several keypoints.
_PLACE = 0.03


@dataclass(frozen=True)
class Keypoints:
    """SIFT keypoints of one frame.

    Attributes:
        places: (N, 4) float32: x, y in px, orientation in radians, log2 of the size.
        descriptors: (N, 128) float32 RootSIFT unit vectors.
    """

    places: Float32s
    descriptors: Float32s


def find_keypoints(luma: Image, mask: Mask) -> Keypoints:
    """Detect SIFT keypoints of a frame.

    Args:
        luma: (h, w) uint8.
        mask: (h, w) uint8, content area, 255 inside.
    """
    equalized = cv2.createCLAHE(_CLAHE_LIMIT, _CLAHE_TILES)
    detector = cv2.SIFT.create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)
    inside = cv2.erode(mask, np.ones((_BORDER_PX, _BORDER_PX), np.uint8))
    found, descriptors = detector.detectAndCompute(equalized.apply(luma), inside)
    if not found:
        return Keypoints(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32))
    places = [(*point.pt, math.radians(point.angle), math.log2(point.size)) for point in found]
    shares = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6)
    return Keypoints(np.array(places, np.float32), np.sqrt(shares).astype(np.float32))


def count_shared_places(first: Keypoints, second: Keypoints, diagonal_px: float) -> int:
    """Count the places shared by two frames, by matches that agree on one similarity transform.

    Every match of two keypoints proposes a transform (Lowe, IJCV 2004, section 7.3); the proposal with the largest
    support is used. Frames of different places reach about 4, rarely 6.

    Args:
        first, second: keypoints of the two frames.
        diagonal_px: diagonal of the frames, px.

    Returns:
        Number of places that support the best transform, >= 0.
    """
    before, after = _match(first, second)
    if not len(before):
        return 0
    cells = [np.floor(places[:, :2] / (_PLACE * diagonal_px)).astype(int) for places in (before, after)]
    numbers = [np.unique(cell, axis=0, return_inverse=True)[1].ravel() for cell in cells]
    support = _support(before, after, diagonal_px)
    return max(min(len(np.unique(number[who])) for number in numbers) for who in support)


def _match(first: Keypoints, second: Keypoints) -> tuple[Float32s, Float32s]:
    """The places (M, 4) of mutual nearest neighbours that pass the ratio test."""
    if min(len(first.places), len(second.places)) < 2:
        return first.places[:0], second.places[:0]
    likeness = first.descriptors @ second.descriptors.T
    nearest = likeness.argmax(axis=1)
    rows = np.arange(len(likeness))
    best, runner_up = np.sort(likeness, axis=1)[:, :-3:-1].T
    distinct = 2 - 2 * best < _RATIO**2 * (2 - 2 * runner_up)
    chosen = distinct & (likeness.argmax(axis=0)[nearest] == rows)
    return first.places[chosen], second.places[nearest[chosen]]


def _support(before: Float32s, after: Float32s, diagonal_px: float) -> Bools:
    """(M, M): which matches (columns) agree with the transform proposed by a match (row)."""
    turn, octaves = after[:, 2] - before[:, 2], after[:, 3] - before[:, 3]
    difference = np.abs((turn[:, None] - turn + np.pi) % (2 * np.pi) - np.pi)
    same_pose = (difference < math.radians(_TURN_DEG)) & (np.abs(octaves[:, None] - octaves) < _OCTAVES)
    # Multiplication by a complex number rotates and scales the plane.
    start, end = before[:, 0] + 1j * before[:, 1], after[:, 0] + 1j * after[:, 1]
    predicted = end[:, None] + (2**octaves * np.exp(1j * turn))[:, None] * (start - start[:, None])
    return np.asarray(same_pose & (np.abs(predicted - end) < _OFFSET * diagonal_px))
