"""Writing pictures atomically."""

from collections.abc import Sequence
from pathlib import Path

import cv2
from cv2.typing import MatLike as Image

from pipeline.errors import LumenError
from pipeline.files import write_bytes


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
