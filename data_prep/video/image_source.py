"""Frames from a folder of images or a glob pattern."""

import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from data_prep.video.image_names import natural_order
from data_prep.video.image_order import OrderedImages
from data_prep.video.source_frame import SourceFrame, SourceInfo
from pipeline.errors import LumenError
from pipeline.manifest import fingerprint_files

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

logger = logging.getLogger(__name__)


def list_images(path: Path) -> list[Path]:
    """The images in a folder, or matched by a glob pattern, in natural order; hidden files are skipped.

    If no file that a pattern matches has a known suffix, all matched files are images.

    Raises:
        LumenError: if there are none.
    """
    if path.is_dir():
        found = list(path.iterdir())
    else:
        found = [match for match in map(Path, glob.glob(str(path))) if match.is_file()]
    known = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    visible = [image for image in known or found if not image.name.startswith(".")]
    images = natural_order(visible if known or not path.is_dir() else [])
    if not images:
        what = "holds no images" if path.is_dir() else "matches no file"
        raise LumenError(f"{path} {what}: give a folder of {', '.join(IMAGE_SUFFIXES)} images, or a quoted glob")
    return images


class ImageSource:
    """A folder of equally sized images as frames.

    Raises:
        LumenError: on construction, if no image can be read; on reading, if images differ in size or are depth maps.
    """

    def __init__(self, path: Path, images: OrderedImages, notes: tuple[str, ...] = ()) -> None:
        """Open images.

        Args:
            path: the folder or the pattern of the images.
            images: at least one.
            notes: remarks on the choice of images, for `info.warnings`.
        """
        self._images = images
        self._unreadable = 0
        first = next((image for image in map(_read_image, images.paths) if image is not None), None)
        if first is None:
            raise LumenError(f"{path}: none of its {len(images.paths)} images can be read")
        self._shape = first.shape
        self.info = SourceInfo(
            path=path,
            kind="images",
            width=first.shape[1],
            height=first.shape[0],
            fps=images.fps,
            frame_count=len(images.paths),
            warnings=(*notes, images.assumption),
        )

    def frames(self) -> Iterator[SourceFrame]:
        """All readable images, in order."""
        self._unreadable = 0
        for place, path in enumerate(self._images.paths):
            frame = self._frame(place)
            if frame is None:
                self._unreadable += 1
                logger.warning("%s cannot be read as an image", path)
            else:
                yield frame

    def sample(self, count: int) -> Iterator[SourceFrame]:
        """Every n-th image, about `count` in total."""
        total = len(self._images.paths)
        frames = map(self._frame, range(0, total, max(1, total // count)))
        return (frame for frame in frames if frame is not None)

    def losses(self) -> list[str]:
        """How many images could not be read; the log names them."""
        return [f"{self._unreadable} of {len(self._images.paths)} images cannot be read"] if self._unreadable else []

    def fingerprint(self) -> str:
        """SHA-256 of the images' names and bytes, as hex."""
        images = self._images.paths
        return fingerprint_files(images, Path(os.path.commonpath([image.parent for image in images])))

    def _frame(self, place: int) -> SourceFrame | None:
        path = self._images.paths[place]
        image = _read_image(path)
        if image is None:
            return None
        if image.shape != self._shape:
            size, wanted = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, self._shape))
            raise LumenError(f"{path} is {size}, the images before it are {wanted}: a sequence has one size")
        return SourceFrame(self._images.indices[place], self._images.timestamps_s[place], lambda: image)


def _read_image(path: Path) -> Image | None:
    """(H, W, 3) uint8 BGR; None if unreadable.

    Raises:
        LumenError: if the pixel type is that of depth maps or other measurements.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR) if data.size else None
    if image is None:
        return None
    is_color = image.ndim == 3
    if image.dtype not in (np.uint8, np.uint16) or (image.dtype == np.uint16 and not is_color):
        raise LumenError(
            f"{path}: {image.dtype} {'colours' if is_color else 'grey values'} indicate a depth map or another "
            "measurement, not a video frame: give 8-bit images, or 16-bit colour images"
        )
    if image.dtype == np.uint16:
        image = np.right_shift(image, 8, dtype=np.uint16).astype(np.uint8)
    return image if is_color else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
