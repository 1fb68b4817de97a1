"""Reading images and writing them atomically, both as bytes: cv2.imread and cv2.imwrite crash on some file names."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.errors import LumenError
from pipeline.files import write_bytes


def read_pixels(path: Path, flags: int = cv2.IMREAD_COLOR) -> Image | None:
    """Read an image as `flags` of cv2.imread say; None if the file is missing, damaged or not an image.

    Returns:
        (H, W) or (H, W, 3) BGR; uint8, or what the file holds with cv2.IMREAD_UNCHANGED.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, flags) if data.size else None


def write_image(path: Path, image: Image, options: Sequence[int] = ()) -> None:
    """Write (H, W) or (H, W, 3) BGR pixels in the format that the suffix names, atomically and without metadata.

    Args:
        path: .jpg, .png or .bmp.
        image: uint8, or uint16 for PNG.
        options: OpenCV's encoding parameters, as (name, value, name, value, ...).

    Raises:
        LumenError: if it cannot be encoded or written.
    """
    encoded, data = cv2.imencode(path.suffix, image, list(options))
    if not encoded:
        raise LumenError(f"cannot encode {path}: an image of shape {image.shape} and type {image.dtype}")
    write_bytes(path, data.tobytes())
