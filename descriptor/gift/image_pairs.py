"""Training pairs: an image and a warped view of it, with points visible in both."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from descriptor.gift.homography import (
    MIDDLE_GREY,
    about_middle,
    apply,
    jitter,
    local_similarity,
    random_homography,
    similarity,
    view_of,
)
from descriptor.gift.images import ImageSet
from descriptor.training.augmentation import change_appearance
from pipeline.arrays import Bools, Bytes, Float32s, Float64s
from pipeline.conventions import colmap_from_index, index_from_colmap, opencv_homography_from_colmap
from pipeline.errors import LumenError

# Attempts to draw a pair with common points before giving up.
_ATTEMPTS = 50
_LEAST_POINTS = 16
# Points are drawn from this share of the pixels with the highest Harris response.
_CORNER_SHARE = 0.1
_HARRIS_BLOCK_PX, _HARRIS_APERTURE_PX, _HARRIS_K = 3, 3, 0.04
# A downsampled pixel is usable if this share of its source pixels is; below 1 to allow for rounding.
_WHOLE = 0.999
# Distance of points from the edge, px.
_BORDER_PX = 4
# Pairs of two sizes: range of the scale in octaves, smallest side, and largest rotation. The rotation is half a step of
# the group, because the group is invariant to whole steps.
_OCTAVES, _LEAST_SIDE_PX, _TURN_DEG = (0.7, 2.0), 64, 22.5
# Share of these pairs that enlarge a part of the image; the others downscale the whole image.
_ENLARGED_SHARE = 0.6


@dataclass(frozen=True)
class ImagePair:
    """Two views of an image.

    Attributes:
        images: first and second view, each (H, W, 3) uint8 RGB, middle grey at invalid pixels.
        shown: first and second mask, each (H, W) bool, True for valid pixels.
        points: (2, P, 2) px in the first and the second view, COLMAP's convention.
        scale: (P,) local scale of the second view relative to the first at each point.
        rotation_deg: (P,) local rotation of the second view at each point, from x towards y.
    """

    images: tuple[Bytes, Bytes]
    shown: tuple[Bools, Bools]
    points: Float64s
    scale: Float64s
    rotation_deg: Float64s

    def reversed(self) -> "ImagePair":
        """The pair with the views exchanged."""
        return ImagePair(
            self.images[::-1], self.shown[::-1], self.points[::-1].copy(), 1 / self.scale, -self.rotation_deg
        )


class PairSampler:
    """Draws pairs.

    Args:
        images: images to draw from.
        size: height and width of both views, or of the larger one.
        points: maximum number of points per pair.
        strength: strength of the appearance changes of both views, 0..1.
        seed: seed of all random choices.
        two_sizes: share of pairs of an image and a smaller copy of it, or an enlarged part of it, up to four times and
            slightly rotated. They are faster to compute than others.
        corner_sizes: number of sizes of the image, 1, 1/2, 1/4, ...; each contributes an equal share of the points.
    """

    def __init__(
        self,
        images: ImageSet,
        size: tuple[int, int],
        points: int,
        strength: float,
        seed: int,
        two_sizes: float = 0.0,
        corner_sizes: int = 1,
    ) -> None:
        self._images, self._size, self._points = images, size, points
        self._strength, self._seed, self._two_sizes, self._corner_sizes = strength, seed, two_sizes, corner_sizes

    def draw(self, step: int, number: int) -> ImagePair:
        """Draw one pair of a step.

        Raises:
            LumenError: if an image cannot be read, or no pair has enough common points.
        """
        random = np.random.default_rng([self._seed, step, number])
        for _ in range(_ATTEMPTS):
            pair = self._of_two_sizes(random) if random.random() < self._two_sizes else self._of_one_size(random)
            if pair is not None:
                return pair
        raise LumenError(
            f"no pair of views shares {_LEAST_POINTS} points: give larger images, or masks that cover more of them"
        )

    def _of_one_size(self, random: np.random.Generator) -> ImagePair | None:
        """An image and a view of the same size."""
        return self._pair(self._size, self._size, random_homography(self._size, random), random)

    def _of_two_sizes(self, random: np.random.Generator) -> ImagePair | None:
        """An image and a smaller copy of it, or an enlarged part of it."""
        least, most = _OCTAVES
        factor = 2 ** random.uniform(least, min(most, math.log2(min(self._size) / _LEAST_SIDE_PX)))
        is_enlarged = random.random() < _ENLARGED_SHARE
        # The image may be larger than the part that the second view enlarges.
        size = _scaled(self._size, factor ** -random.uniform(0, 1) if is_enlarged else 1.0)
        other = self._size if is_enlarged else _scaled(self._size, 1 / factor)
        scale = factor if is_enlarged else 1 / factor
        room = np.maximum(0, np.array(size[::-1]) - np.array(other[::-1]) / scale)
        left, top = room * random.uniform(0, 1, 2)
        turn = about_middle(similarity(1.0, math.radians(_TURN_DEG * random.uniform(-1, 1))), other)
        motion = similarity(scale, 0.0) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
        pair = self._pair(size, other, turn @ motion @ jitter(size, random), random)
        return pair if pair is None or is_enlarged or random.random() < 0.5 else pair.reversed()

    def _pair(
        self, size: tuple[int, int], other: tuple[int, int], homography: Float64s, random: np.random.Generator
    ) -> ImagePair | None:
        """An image of one size and a view of another size; None if they share too few points."""
        image, shown = self._images.cut(int(random.integers(len(self._images))), size, random)
        second, second_shown = _seen(image, shown, homography, other)
        # A view enlarged four times shows only a sixteenth of the image, so corners are detected inside it only.
        first_points = self._corners(image, shown & _seen_from(second_shown, homography, size), random)
        second_points = apply(homography, first_points)
        inside = _inside(second_points, second_shown, self._border_px(other))
        if inside.sum() < _LEAST_POINTS:
            return None
        first_points, second_points = first_points[inside], second_points[inside]
        scale, rotation = local_similarity(homography, first_points)
        views = (
            _changed(image, shown, self._strength, random),
            _changed(second, second_shown, self._strength, random),
        )
        points = np.stack([first_points, second_points])
        return ImagePair(views, (shown, second_shown), points, scale, rotation)

    def _corners(self, image: Bytes, shown: Bools, random: np.random.Generator) -> Float64s:
        """Corners of the image at several sizes, in px of the image."""
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255, np.float32)
        # The border of invalid pixels creates false corners.
        around = 2 * math.ceil(self._border_px(shown.shape)) + 1
        kernel = np.ones((around, around), np.uint8)
        usable = np.asarray(cv2.erode(shown.astype(np.float32), kernel, borderValue=0), np.float32)
        points = np.empty((0, 2))
        # The smallest size first: if it has too few pixels, larger ones contribute more.
        for number in range(self._corner_sizes)[::-1]:
            size = _scaled(shown.shape, 0.5**number)
            smaller, whole = (_resized(each, size) for each in (grey, usable))
            response = cv2.cornerHarris(smaller, _HARRIS_BLOCK_PX, _HARRIS_APERTURE_PX, _HARRIS_K)
            row, column = np.nonzero(whole > _WHOLE)
            count = (self._points - len(points)) // (number + 1)
            strongest = np.argsort(-response[row, column])[: max(count, int(_CORNER_SHARE * len(row)))]
            chosen = random.permutation(strongest)[:count]
            middles = colmap_from_index(np.stack([column[chosen], row[chosen]], axis=1))
            points = np.concatenate([points, middles * shown.shape[::-1] / size[::-1]])
        return points

    def _border_px(self, size: tuple[int, ...]) -> float:
        return _BORDER_PX * size[0] / self._size[0]


def _scaled(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    height, width = size
    return round(height * factor), round(width * factor)


def _resized(values: Float32s, size: tuple[int, int]) -> Float32s:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA), np.float32)


def _seen(image: Bytes, shown: Bools, homography: Float64s, size: tuple[int, int]) -> tuple[Bytes, Bools]:
    """Warp an image (H, W, 3) and its mask (H, W) to a view of `size`."""
    matrix = opencv_homography_from_colmap(homography)
    mask = cv2.warpPerspective(shown.astype(np.uint8) * 255, matrix, size[::-1]) == 255
    return np.where(mask[..., None], view_of(image, homography, size), np.uint8(MIDDLE_GREY)), mask


def _seen_from(second_shown: Bools, homography: Float64s, size: tuple[int, int]) -> Bools:
    """The pixels of an image of `size` that are visible in its view."""
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
    matrix = opencv_homography_from_colmap(homography)
    return np.asarray(cv2.warpPerspective(second_shown.astype(np.uint8), matrix, size[::-1], flags=flags) > 0)


def _changed(image: Bytes, shown: Bools, strength: float, random: np.random.Generator) -> Bytes:
    if strength <= 0:
        return image
    return np.where(shown[..., None], change_appearance(image, strength, random), np.uint8(MIDDLE_GREY))


def _inside(points: Float64s, shown: Bools, border_px: float) -> Bools:
    """Which points (N, 2) lie on valid pixels of a view, away from its edge."""
    height, width = shown.shape
    border = np.array([border_px, border_px])
    inside = np.isfinite(points).all(axis=1) & (points >= border).all(axis=1)
    inside &= (points < np.array([width, height]) - border).all(axis=1)
    index = index_from_colmap(np.where(inside[:, None], points, border))
    return inside & shown[index[:, 1], index[:, 0]]
