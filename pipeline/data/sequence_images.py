"""Read the frames and masks of a sequence, and detect damaged ones."""

from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.arrays import Bytes
from pipeline.data.images import read_pixels
from pipeline.errors import LumenError
from pipeline.paths import SequencePaths

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def read_frame(paths: SequencePaths, index: int, size: tuple[int, int]) -> Image | None:
    """Read a frame.

    Args:
        paths: the sequence.
        index: the frame's index in the video.
        size: width and height of all frames, px.

    Returns:
        (H, W, 3) uint8 BGR; None if the file is missing or damaged.

    Raises:
        LumenError: if the frame has another size.
    """
    image = read_image(paths.image(index))
    if image is not None:
        _check_size(image, size, paths.image(index))
    return image


def read_image(path: Path) -> Image | None:
    """Read an image, ignoring EXIF orientation: (H, W, 3) uint8 BGR; None if the file is missing or damaged."""
    data = _read_whole(path)
    return cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG file is truncated. Decoders fill in the missing part without an error."""
    return data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)


def _read_whole(path: Path) -> Bytes:
    """The bytes of an image file; empty if it is missing or truncated."""
    try:
        data = path.read_bytes()
    except OSError:
        return np.zeros(0, np.uint8)
    return np.frombuffer(b"" if is_cut_off(data) else data, np.uint8)


def read_frame_mask(paths: SequencePaths, index: int, content_mask: Image) -> Image:
    """Read the mask of a frame: (H, W) uint8, 255 = use; the content area if the frame has no mask of its own.

    Raises:
        LumenError: if the mask is damaged, or its size differs from that of the content area.
    """
    return read_own_mask(paths.frame_mask(index), content_mask)


def read_own_mask(path: Path | None, content_mask: Image) -> Image:
    """Like `read_frame_mask`, for an image whose mask is at `path`, if it has one."""
    if path is None or not path.exists():
        return content_mask
    mask = read_pixels(path, cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise LumenError(f"{path} is not an image: delete it to use the whole content area, or extract it again")
    _check_size(mask, (content_mask.shape[1], content_mask.shape[0]), path)
    return cv2.bitwise_and(mask, content_mask)


def _check_size(image: Image, size: tuple[int, int], path: Path) -> None:
    height, width = image.shape[:2]
    if (width, height) != size:
        raise LumenError(
            f"{path} has {width}x{height} pixels, the sequence has {size[0]}x{size[1]}: extract the sequence again"
        )
