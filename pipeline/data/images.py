"""Read images, and write them atomically. Files are read as bytes: cv2.imread and cv2.imwrite crash on some names."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import write_bytes

# A PNG begins with its signature and the IHDR chunk. A text chunk may follow: length, type, content, checksum.
_HEADER_BYTES = 33
_TEXT = b"tEXtSoftware\0LumenSfM"
_SIGNATURE = struct.pack(">I", len(_TEXT) - 4) + _TEXT + struct.pack(">I", zlib.crc32(_TEXT))


def read_pixels(path: Path, flags: int = cv2.IMREAD_COLOR) -> Image | None:
    """Read an image with `flags` of cv2.imread; None if the file is missing, damaged or not an image.

    Returns:
        (H, W) or (H, W, 3) BGR; uint8, or the type in the file with cv2.IMREAD_UNCHANGED.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, flags) if data.size else None


def write_plot(path: Path, image: Image) -> None:
    """Write a plot as a PNG with LumenSfM's signature. An existing file is replaced only if it has the signature.

    Args:
        path: .png.
        image: (H, W) or (H, W, 3) BGR uint8.

    Raises:
        LumenError: if another file exists there, or the plot cannot be encoded or written.
    """
    if path.exists() and not is_own_plot(path):
        raise LumenError(f"{path} already exists and was not drawn by LumenSfM: choose another name")
    data = _encoded(path, image)
    write_bytes(path, data[:_HEADER_BYTES] + _SIGNATURE + data[_HEADER_BYTES:])


def is_own_plot(path: Path) -> bool:
    """Whether `write_plot` wrote the file.

    Raises:
        LumenError: if it cannot be read.
    """
    with explain_os_errors("read", path), path.open("rb") as stream:
        return stream.read(_HEADER_BYTES + len(_SIGNATURE)).endswith(_SIGNATURE)


def write_image(path: Path, image: Image, options: Sequence[int] = ()) -> None:
    """Write (H, W) or (H, W, 3) BGR pixels in the format given by the suffix, atomically and without metadata.

    Args:
        path: .jpg, .png or .bmp.
        image: uint8, or uint16 for PNG.
        options: OpenCV's encoding parameters, as (name, value, name, value, ...).

    Raises:
        LumenError: if the image cannot be encoded or written.
    """
    write_bytes(path, _encoded(path, image, options))


def _encoded(path: Path, image: Image, options: Sequence[int] = ()) -> bytes:
    encoded, data = cv2.imencode(path.suffix, image, list(options))
    if not encoded:
        raise LumenError(f"cannot encode {path}: the image has shape {image.shape} and type {image.dtype}")
    return bytes(data)
