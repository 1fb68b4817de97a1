"""Pairs of pictures, of which one is the other seen from elsewhere, with points that both show."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from descriptor.augmentation import change_appearance
from descriptor.gift.homography import MIDDLE_GREY, apply, local_similarity, random_homography, view_of
from descriptor.gift.pictures import Pictures
from pipeline.conventions import colmap_from_index, index_from_colmap, opencv_homography_from_colmap
from pipeline.errors import LumenError

Bytes = npt.NDArray[np.uint8]
Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

# So many draws that show nothing in common mean that there is nothing.
_ATTEMPTS = 50
_LEAST_POINTS = 16
# Points are drawn among this share of the pixels, those of the highest Harris response.
_CORNER_SHARE = 0.1
_HARRIS_BLOCK_PX, _HARRIS_APERTURE_PX, _HARRIS_K = 3, 3, 0.04
# From the edge, px.
_BORDER_PX = 4


@dataclass(frozen=True)
class PicturePair:
    """Two views of a picture.

    Attributes:
        images: (2, H, W, 3) uint8 RGB, middle grey where they show nothing.
        shown: (H, W) bool, pixels of the second that show something.
        points: (2, P, 2) px of the first and of the second, COLMAP's convention.
        scale: (P,) by which the second is larger about each point.
        rotation_deg: (P,) by which it is turned there, from x towards y.
    """

    images: Bytes
    shown: Booleans
    points: Floats
    scale: Floats
    rotation_deg: Floats


class PairSampler:
    """Draws pairs.

    Args:
        pictures: to draw from.
        size: height and width of both views.
        points: most points of a pair.
        strength: how much the light, the sharpness and the like of both views are changed, 0..1.
        seed: of everything that is drawn.
    """

    def __init__(self, pictures: Pictures, size: tuple[int, int], points: int, strength: float, seed: int) -> None:
        self._pictures, self._size, self._points = pictures, size, points
        self._strength, self._seed = strength, seed

    def draw(self, step: int, number: int) -> PicturePair:
        """The pair of this number in a step.

        Raises:
            LumenError: if a picture cannot be read, or none shows anything.
        """
        random = np.random.default_rng([self._seed, step, number])
        for _ in range(_ATTEMPTS):
            image, shown = self._pictures.cut(int(random.integers(len(self._pictures))), self._size, random)
            pair = self._view(image, shown, random)
            if pair is not None:
                return pair
        raise LumenError(
            f"no picture shows {_LEAST_POINTS} points twice: give larger pictures, or masks that leave more of them"
        )

    def _view(self, image: Bytes, shown: Booleans, random: np.random.Generator) -> PicturePair | None:
        homography = random_homography(self._size, random)
        second, second_shown = _seen(image, shown, homography)
        # Of all of the first, one that is four times as large shows only a sixteenth.
        first_points = self._corners(image, shown & _seen_from(second_shown, homography), random)
        second_points = apply(homography, first_points)
        inside = _inside(second_points, second_shown)
        if inside.sum() < _LEAST_POINTS:
            return None
        first_points, second_points = first_points[inside], second_points[inside]
        scale, rotation = local_similarity(homography, first_points)
        views: Sequence[Bytes] = [
            _changed(view, mask, self._strength, random) for view, mask in ((image, shown), (second, second_shown))
        ]
        return PicturePair(np.stack(views), second_shown, np.stack([first_points, second_points]), scale, rotation)

    def _corners(self, image: Bytes, shown: Booleans, random: np.random.Generator) -> Floats:
        """Points where the picture has corners, none twice."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        response = cv2.cornerHarris(grey, _HARRIS_BLOCK_PX, _HARRIS_APERTURE_PX, _HARRIS_K)
        # What shows nothing has an edge that is no corner of the picture.
        usable = cv2.erode(shown.astype(np.uint8), np.ones((2 * _BORDER_PX + 1,) * 2, np.uint8), borderValue=0) > 0
        row, column = np.nonzero(usable)
        strongest = np.argsort(-response[row, column])[: max(self._points, int(_CORNER_SHARE * len(row)))]
        chosen = random.permutation(strongest)[: self._points]
        return colmap_from_index(np.stack([column[chosen], row[chosen]], axis=1))


def _seen(image: Bytes, shown: Booleans, homography: Floats) -> tuple[Bytes, Booleans]:
    """A picture (H, W, 3) and its mask (H, W) in a view."""
    matrix = opencv_homography_from_colmap(homography)
    mask = cv2.warpPerspective(shown.astype(np.uint8) * 255, matrix, shown.shape[::-1]) == 255
    return np.where(mask[..., None], view_of(image, homography), np.uint8(MIDDLE_GREY)), mask


def _seen_from(second_shown: Booleans, homography: Floats) -> Booleans:
    """Where a picture (H, W) shows what a view does."""
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
    matrix, size = opencv_homography_from_colmap(homography), second_shown.shape[::-1]
    return np.asarray(cv2.warpPerspective(second_shown.astype(np.uint8), matrix, size, flags=flags) > 0)


def _changed(image: Bytes, shown: Booleans, strength: float, random: np.random.Generator) -> Bytes:
    if strength <= 0:
        return image
    return np.where(shown[..., None], change_appearance(image, strength, random), np.uint8(MIDDLE_GREY))


def _inside(points: Floats, shown: Booleans) -> Booleans:
    """Which points (N, 2) lie on what a view shows, and not at its edge."""
    height, width = shown.shape
    border = np.array([_BORDER_PX, _BORDER_PX])
    inside = np.isfinite(points).all(axis=1) & (points >= border).all(axis=1)
    inside &= (points < np.array([width, height]) - border).all(axis=1)
    index = index_from_colmap(np.where(inside[:, None], points, border))
    return inside & shown[index[:, 1], index[:, 0]]
