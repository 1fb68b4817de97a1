"""HPatches (Balntas et al., CVPR 2017) in its published layout, and the scaled and rotated versions of GIFT."""

import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from descriptor.gift.homography import about_middle, similarity, view_of
from pipeline.arrays import Bytes, Float64s
from pipeline.conventions import colmap_homography_from_opencv
from pipeline.data.sequence_images import read_image
from pipeline.errors import LumenError, require
from pipeline.outputs.files import read_numbers

Form = Literal["plain", "es", "er"]

_IMAGES = 6
_SUFFIXES = (".ppm", ".png", ".jpg", ".bmp")
# ES-HPatches: range of the scale of second images, octaves, up or down. ER-HPatches: largest rotation.
_OCTAVES, _ROTATION_DEG = (1.5, 2.0), 90.0


@dataclass(frozen=True)
class HomographyPair:
    """Two images related by a homography.

    Attributes:
        name: name of the sequence and the second image.
        first, second: (H, W, 3) uint8 RGB.
        second_from_first: (3, 3) homography between pixels, COLMAP's convention.
    """

    name: str
    first: Bytes
    second: Bytes
    second_from_first: Float64s


@dataclass(frozen=True)
class HPatches:
    """The sequences of a folder.

    Args:
        root: contains one folder per sequence, with images 1 to 6 and H_1_2 to H_1_6.
        form: `plain`, `es` with scaled second images, or `er` with rotated second images.
        side_px: images are downsampled until the longer side is at most this.
        seed: seed of scales and rotations.
    """

    root: Path
    form: Form = "plain"
    side_px: int = 480
    seed: int = 0

    def sequences(self) -> list[Path]:
        """The folders of the sequences, ordered by name.

        Raises:
            LumenError: if there are none.
        """
        require(self.root.is_dir(), f"{self.root} does not exist or is not a folder")
        found = sorted(path.parent for path in self.root.glob("*/H_1_*"))
        if not found:
            raise LumenError(f"{self.root} is not HPatches: expected one folder per sequence with H_1_2 to H_1_6")
        return list(dict.fromkeys(found))

    def pairs(self, folder: Path) -> Iterator[HomographyPair]:
        """Pairs of the first image of a sequence with each of the others.

        Raises:
            LumenError: if an image or a homography is missing or damaged.
        """
        first, first_size = self._read(folder, 1)
        for other in range(2, _IMAGES + 1):
            second, second_size = self._read(folder, other)
            recorded = read_homography(folder / f"H_1_{other}")
            homography = _smaller(second, second_size) @ recorded @ np.linalg.inv(_smaller(first, first_size))
            pair = HomographyPair(f"{folder.name}/{other}", first, second, homography)
            # Seeded by the name, so that a subset of the sequences gets the same changes.
            seed = [self.seed, zlib.crc32(os.fsencode(folder.name)), other]
            yield self._changed(pair, np.random.default_rng(seed))

    def _read(self, folder: Path, number: int) -> tuple[Bytes, tuple[int, int]]:
        """A downsampled image, and its original width and height."""
        paths = [folder / f"{number}{suffix}" for suffix in _SUFFIXES]
        found = next((path for path in paths if path.exists()), None)
        if found is None:
            raise LumenError(f"{paths[0]} is missing (also tried {', '.join(path.name for path in paths[1:])})")
        image = read_image(found)
        if image is None:
            raise LumenError(f"{found} is damaged or not an image")
        height, width = image.shape[:2]
        factor = min(1.0, self.side_px / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if factor < 1 else image
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8), (width, height)

    def _changed(self, pair: HomographyPair, random: np.random.Generator) -> HomographyPair:
        if self.form == "plain":
            return pair
        if self.form == "es":
            octaves = random.uniform(*_OCTAVES) * random.choice([-1.0, 1.0])
            motion = similarity(2**octaves, 0.0)
        else:
            motion = similarity(1.0, math.radians(_ROTATION_DEG * random.uniform(-1, 1)))
        motion = about_middle(motion, (pair.second.shape[0], pair.second.shape[1]))
        return HomographyPair(pair.name, pair.first, view_of(pair.second, motion), motion @ pair.second_from_first)


def read_homography(path: Path) -> Float64s:
    """Read a published homography (3, 3) and convert it from OpenCV's to COLMAP's pixel convention.

    Raises:
        LumenError: if the file is missing or is not three rows of three numbers.
    """
    if not path.exists():
        raise LumenError(f"{path} is missing: every image except the first needs a homography")
    return colmap_homography_from_opencv(read_numbers(path, (3, 3), "homography"))


def _smaller(image: Bytes, size: tuple[int, int]) -> Float64s:
    """Map from pixels of an image of `size` (width, height) to pixels of the downsampled image."""
    return np.diag([image.shape[1] / size[0], image.shape[0] / size[1], 1.0])
