"""Training images of GIFT: any folder of images, or frames of endoscopic sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from descriptor.gift.homography import MIDDLE_GREY
from pipeline.arrays import Bools, Bytes
from pipeline.data.images import read_pixels
from pipeline.data.sequence_images import read_image
from pipeline.errors import LumenError, require
from pipeline.paths import AnyPath, SequencePaths

Random = np.random.Generator

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}
# Smallest crop, as a share of the largest crop with the requested aspect ratio.
_LEAST_CUT_SHARE = 0.6


@dataclass(frozen=True)
class ImageSet:
    """Images, each with the mask of its folder, if any.

    Attributes:
        paths: paths of the images.
        masks: mask of each image, (H, W) uint8, 255 = tissue; None if every pixel is usable.
    """

    paths: Sequence[Path]
    masks: Sequence[Bytes | None]

    @classmethod
    def find(cls, root: AnyPath, share: tuple[float, float] = (0.0, 1.0)) -> "ImageSet":
        """Find all images under a folder.

        The mask of a sequence applies to images in its folder and in the folders directly below.

        Args:
            root: the folder.
            share: part of each folder's images to take, ordered by name.

        Raises:
            LumenError: if there are no images, or a mask cannot be read.
        """
        root = Path(root)
        require(root.is_dir(), f"{root} does not exist or is not a folder")
        folders: dict[Path, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and _is_frame(path, root):
                folders.setdefault(path.parent, []).append(path)
        paths: list[Path] = []
        masks: list[Bytes | None] = []
        for folder, own in folders.items():
            own = own[round(share[0] * len(own)) : round(share[1] * len(own))]
            paths += own
            masks += [_mask_of(folder)] * len(own)
        if not paths:
            raise LumenError(f"{root} contains no images ({', '.join(sorted(_SUFFIXES))}) in this share of each folder")
        return cls(paths, masks)

    def __len__(self) -> int:
        return len(self.paths)

    def cut(self, number: int, size: tuple[int, int], random: Random) -> tuple[Bytes, Bools]:
        """Crop and resize an image at random: (h, w, 3) RGB, and (h, w) bool, True for usable pixels.

        Other pixels are middle grey.

        Args:
            number: index of the image.
            size: height and width of the result.
            random: random generator for position and size of the crop.

        Raises:
            LumenError: if the image is missing or damaged, or its size differs from its mask.
        """
        path, mask = self.paths[number], self.masks[number]
        image = read_image(path)
        if image is None:
            raise LumenError(f"{path} is damaged or not an image")
        if mask is None:
            mask = np.full(image.shape[:2], 255, np.uint8)
        require(
            mask.shape == image.shape[:2],
            f"{path} has {image.shape[1]}x{image.shape[0]} pixels, its mask has {mask.shape[1]}x{mask.shape[0]}",
        )
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        require(len(rows) > 0, f"the mask of {path} is empty")
        top, left = int(rows[0]), int(columns[0])
        height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
        # The largest crop of this aspect ratio, or a smaller one.
        factor = min(height / size[0], width / size[1]) * random.uniform(_LEAST_CUT_SHARE, 1)
        cut = (max(1, round(factor * size[0])), max(1, round(factor * size[1])))
        top += int(random.integers(0, height - cut[0] + 1))
        left += int(random.integers(0, width - cut[1] + 1))
        part = (slice(top, top + cut[0]), slice(left, left + cut[1]))
        way = cv2.INTER_AREA if factor >= 1 else cv2.INTER_LINEAR
        shown = cv2.resize(mask[part], size[::-1], interpolation=cv2.INTER_AREA) == 255
        rgb = cv2.cvtColor(cv2.resize(image[part], size[::-1], interpolation=way), cv2.COLOR_BGR2RGB)
        return np.where(shown[..., None], rgb, np.uint8(MIDDLE_GREY)), shown


def _is_frame(path: Path, root: Path) -> bool:
    """Whether an image is for training: in the folder of a sequence, only its frames are, not the originals."""
    own = [folder for folder in path.parents if folder == root.parent or folder.is_relative_to(root)]
    sequence = next((folder for folder in own if SequencePaths(folder).mask.exists()), None)
    if sequence is None:
        return True
    paths = SequencePaths(sequence)
    if SequencePaths(sequence.parent).recorded.root == sequence and SequencePaths(sequence.parent).mask.exists():
        return False
    return path.parent == (paths.images if paths.images.is_dir() else sequence) and path != paths.mask


def _mask_of(folder: Path) -> Bytes | None:
    for path in (SequencePaths(folder).mask, SequencePaths(folder.parent).mask):
        if path.exists():
            mask = read_pixels(path, cv2.IMREAD_GRAYSCALE)
            if mask is None:
                raise LumenError(f"{path} is damaged or not an image")
            return np.asarray(mask, np.uint8)
    return None
