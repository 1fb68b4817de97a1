"""Interface of all descriptors: a dense map of unit vectors for an image, or vectors at given keypoints."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from descriptor.network_frame import NetworkFrame
from pipeline.arrays import Bytes, Float64s
from pipeline.errors import require


@dataclass(frozen=True)
class DescriptorMap:
    """Descriptors of a whole image, one per cell of a grid.

    Attributes:
        values: (C, H, W) float, unit length over the channels; undefined where `mask` is False.
        mask: (H, W) bool, True for cells that show tissue.
        frame: position of the grid in the image; a cell is a pixel of the network's frame.
    """

    values: Tensor
    mask: Tensor
    frame: NetworkFrame

    def at(self, keypoints: Float64s) -> Tensor:
        """Descriptors (N, C) at pixels (N, 2) of the image, interpolated and normalised; clamped at the border."""
        height, width = self.values.shape[1:]
        cells = torch.from_numpy(self.frame.network_from_image(keypoints)).to(self.values)
        # With align_corners=False, -1 and 1 are the outer edges of the first and the last pixel.
        grid = cells / cells.new_tensor([width, height]) * 2 - 1
        sampled = torch.nn.functional.grid_sample(
            self.values[None], grid[None, None], padding_mode="border", align_corners=False
        )
        return torch.nn.functional.normalize(sampled[0, :, 0].T, dim=1)


def check_sizes(image: Bytes, mask: Bytes) -> None:
    """Check that an image (H, W, 3) and its mask (H, W) have the same size.

    Raises:
        LumenError: if they do not.
    """
    (height, width), (rows, columns) = image.shape[:2], mask.shape
    require(
        (rows, columns) == (height, width),
        f"the mask has {columns}x{rows} pixels, the image has {width}x{height}",
    )


class Descriptor(ABC):
    """Maps pixels to vectors such that the same place has the same vector. Backends: `descriptor.registry`.

    Attributes:
        name: name of the backend.
        length: C, the length of a descriptor.
    """

    name: str
    length: int

    @abstractmethod
    def describe(self, image: Bytes, mask: Bytes) -> DescriptorMap:
        """Describe a whole frame.

        Args:
            image: (H, W, 3) uint8 RGB, at the recorded size.
            mask: (H, W) uint8, 255 = tissue.

        Raises:
            LumenError: if their sizes differ, or the mask shows no tissue.
        """

    def describe_at(self, image: Bytes, keypoints: Float64s) -> Tensor:
        """Descriptors (N, C) of an image (H, W, 3) uint8 RGB at pixels (N, 2), COLMAP's convention."""
        return self.describe(image, np.full(image.shape[:2], 255, np.uint8)).at(keypoints)
