"""Frames from a folder of images or a glob pattern."""

import glob
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike as Image

from data_prep.source_frame import SourceFrame, SourceInfo
from pipeline.errors import LumenError
from pipeline.manifest import fingerprint_files

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

logger = logging.getLogger(__name__)


def list_images(path: Path) -> list[Path]:
    """The images in a folder, or the files that a glob pattern matches, by name; hidden ones do not count.

    Numbers in names are compared as numbers: `frame9` comes before `frame10`.

    Raises:
        LumenError: if there are none.
    """
    if path.is_dir():
        found = [child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = [match for match in map(Path, glob.glob(str(path))) if match.is_file()]
    images = sorted((image for image in found if not image.name.startswith(".")), key=_natural_order)
    if not images:
        what = "holds no images" if path.is_dir() else "matches no file"
        raise LumenError(f"{path} {what}: give a folder of {', '.join(IMAGE_SUFFIXES)}, or a quoted glob")
    return images


class ImageSource:
    """Images of one size, each with the number in its name as its index.

    The number is the one that differs between the names; where there is no such number, images count from 0 in the
    order of their names.

    Raises:
        LumenError: when made, if none of the images can be read; when read, if they differ in size.
    """

    def __init__(self, path: Path, images: list[Path], fps: float) -> None:
        self._images = _numbered(images)
        self._unreadable = 0
        first = next((image for image in map(_read_image, images) if image is not None), None)
        if first is None:
            raise LumenError(f"{path}: none of its {len(images)} images can be read")
        self._shape = first.shape
        self.info = SourceInfo(
            path=path,
            kind="images",
            width=first.shape[1],
            height=first.shape[0],
            fps=fps,
            frame_count=len(images),
            warnings=(f"images carry no times: timestamps assume {fps:g} frames a second (--image_fps)",),
        )

    def frames(self) -> Iterator[SourceFrame]:
        """All images that can be read, in order."""
        self._unreadable = 0
        for index, path in self._images.items():
            frame = self._frame(index, path)
            if frame is None:
                self._unreadable += 1
                logger.warning("%s cannot be read as an image", path)
            else:
                yield frame

    def sample(self, count: int) -> Iterator[SourceFrame]:
        """Every n-th image, about `count` in all."""
        step = max(1, len(self._images) // count)
        frames = (self._frame(index, path) for index, path in list(self._images.items())[::step])
        return (frame for frame in frames if frame is not None)

    def losses(self) -> list[str]:
        """How many images could not be read; the log names them."""
        return [f"{self._unreadable} of {len(self._images)} images cannot be read"] if self._unreadable else []

    def fingerprint(self) -> str:
        """SHA-256 of the images' names and bytes, as hex."""
        images = list(self._images.values())
        return fingerprint_files(images, Path(os.path.commonpath([image.parent for image in images])))

    def _frame(self, index: int, path: Path) -> SourceFrame | None:
        image = _read_image(path)
        if image is None:
            return None
        if image.shape != self._shape:
            size, wanted = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, self._shape))
            raise LumenError(f"{path} is {size}, the images before it {wanted}: a sequence has one size")
        return SourceFrame(index, index / self.info.fps, lambda: image)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _numbered(images: list[Path]) -> dict[int, Path]:
    numbers = [[int(found) for found in re.findall(r"\d+", path.stem)] for path in images]
    if len({len(found) for found in numbers}) == 1:
        columns = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        if len(images) == 1 and numbers[0]:
            columns = [tuple(numbers[0][-1:])]
        if len(columns) == 1 and len(set(columns[0])) == len(images):
            return dict(sorted(zip(columns[0], images, strict=True)))
    return dict(enumerate(images))


def _read_image(path: Path) -> Image | None:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
