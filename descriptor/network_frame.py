"""Geometry of the network's frame: the recorded frame, downsampled and cropped to the content area (as in DDL)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Bytes, Float64s
from pipeline.errors import LumenError, require


@dataclass(frozen=True)
class NetworkFrame:
    """Position of the network's frame in a recorded frame. Both use COLMAP's pixel convention.

    Attributes:
        image_size: width and height of the recorded frame, px.
        small_size: width and height of the whole downsampled frame, px.
        origin: column and row of the network's frame in the downsampled frame; negative if it extends beyond the edge.
        size: height and width of the network's frame, px.
    """

    image_size: tuple[int, int]
    small_size: tuple[int, int]
    origin: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of_mask(cls, mask: Bytes, downsampling: float, size: tuple[int, int]) -> "NetworkFrame":
        """A frame of `size` (height, width) centred on the content area of a mask (H, W) uint8.

        It stays inside the image if it fits; otherwise the image is centred in it.
        """
        height, width = mask.shape
        small_size = _smaller(mask, downsampling)
        left, top, right, bottom = _content_box(mask, small_size)
        origin = (
            _start(left, right, size[1], small_size[0]),
            _start(top, bottom, size[0], small_size[1]),
        )
        return cls((width, height), small_size, origin, size)

    def network_from_image(self, pixels: Float64s) -> Float64s:
        """Pixels (..., 2) of the recorded frame → of the network's frame."""
        return np.asarray(pixels) * np.divide(self.small_size, self.image_size) - self.origin

    def image_from_network(self, pixels: Float64s) -> Float64s:
        """Pixels (..., 2) of the network's frame → of the recorded frame."""
        return (np.asarray(pixels) + self.origin) * np.divide(self.image_size, self.small_size)

    def cut(self, image: Bytes) -> Bytes:
        """A recorded image (H, W, 3), downsampled by area and cropped to (h, w, 3); black beyond the edge.

        Raises:
            LumenError: if its size is not `image_size`.
        """
        self._check(image)
        return self._crop(cv2.resize(image, self.small_size, interpolation=cv2.INTER_AREA))

    def cut_mask(self, mask: Bytes) -> Bools:
        """A recorded mask (H, W) uint8 → (h, w) bool: pixels that show only tissue."""
        self._check(mask)
        return self._crop(cv2.resize(mask, self.small_size, interpolation=cv2.INTER_AREA)) == 255

    def _check(self, image: Bytes) -> None:
        height, width = image.shape[:2]
        require(
            (width, height) == self.image_size,
            f"the frame has {width}x{height} pixels, the other frames have {self.image_size[0]}x{self.image_size[1]}",
        )

    def _crop(self, small: npt.NDArray[np.generic]) -> Bytes:
        (left, top), (height, width) = self.origin, self.size
        result = np.zeros((height, width, *small.shape[2:]), np.uint8)
        rows = slice(max(0, top), min(small.shape[0], top + height))
        columns = slice(max(0, left), min(small.shape[1], left + width))
        result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = small[rows, columns]
        return result


def common_size(masks: Sequence[Bytes], downsampling: float, multiple: int) -> tuple[int, int]:
    """Height and width of the smallest network frame that holds every content area (DDL's rule).

    Args:
        masks: one per sequence, (H, W) uint8, 255 = tissue.
        downsampling: factor applied to frames before the network.
        multiple: height and width are multiples of this.

    Raises:
        LumenError: if a mask is empty.
    """
    sizes = []
    for mask in masks:
        left, top, right, bottom = _content_box(mask, _smaller(mask, downsampling))
        sizes.append((bottom - top, right - left))
    height, width = np.max(sizes, axis=0)
    return -(-int(height) // multiple) * multiple, -(-int(width) // multiple) * multiple


def fitting_downsampling(mask: Bytes, multiple: int, pixels: int) -> float:
    """The smallest downsampling, in steps of 0.1, for which `common_size` of a mask has at most `pixels` pixels.

    Raises:
        LumenError: if there is none, or the mask is empty.
    """
    require(pixels >= multiple**2, f"no frame has {pixels} pixels or fewer: choose {multiple**2} or more")
    tenths = 10
    # Searched upwards, because strong downsampling can leave no tissue in the mask.
    while math.prod(common_size([mask], tenths / 10, multiple)) > pixels:
        tenths += 1
    return tenths / 10


class FittingDownsampling:
    """`fitting_downsampling` with a memory of one mask: all frames of a video share their mask."""

    def __init__(self) -> None:
        self._last: tuple[Bytes, tuple[int, int], float] | None = None

    def of(self, mask: Bytes, multiple: int, pixels: int) -> float:
        """See `fitting_downsampling`."""
        last = self._last
        if last is None or last[1] != (multiple, pixels) or not np.array_equal(last[0], mask):
            last = self._last = mask.copy(), (multiple, pixels), fitting_downsampling(mask, multiple, pixels)
        return last[2]


def _smaller(mask: Bytes, downsampling: float) -> tuple[int, int]:
    height, width = mask.shape
    return max(1, round(width / downsampling)), max(1, round(height / downsampling))


def _content_box(mask: Bytes, small_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the content area in the downsampled frame."""
    small = cv2.resize(mask, small_size, interpolation=cv2.INTER_AREA) == 255
    if not small.any():
        raise LumenError("the mask shows no tissue: check undistorted_mask.bmp")
    columns, rows = np.flatnonzero(small.any(axis=0)), np.flatnonzero(small.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _start(first: int, end: int, size: int, available: int) -> int:
    if size >= available:
        return (available - size) // 2
    return min(max((first + end - size) // 2, 0), available - size)
