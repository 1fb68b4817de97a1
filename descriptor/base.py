"""What a descriptor is to the rest: an image in, a dense map of unit vectors out, or vectors at given places."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descriptor.network_frame import NetworkFrame
from pipeline.errors import require

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DescriptorMap:
    """Descriptors of a whole image, one for each cell of a grid.

    Attributes:
        values: (C, H, W) float, of length 1 over the channels; anything where `mask` is False.
        mask: (H, W) bool, the cells that show tissue.
        frame: where the grid lies in the image: a cell is a pixel of the network's frame.
    """

    values: Tensor
    mask: Tensor
    frame: NetworkFrame

    def at(self, keypoints: Floats) -> Tensor:
        """Descriptors (N, C) at pixels (N, 2) of the image, interpolated and normalised; nearest beyond the edge."""
        height, width = self.values.shape[1:]
        cells = torch.from_numpy(self.frame.network_from_image(keypoints)).to(self.values)
        # grid_sample without aligned corners counts the edges of the first and last pixel as -1 and 1.
        grid = cells / cells.new_tensor([width, height]) * 2 - 1
        sampled = torch.nn.functional.grid_sample(
            self.values[None], grid[None, None], padding_mode="border", align_corners=False
        )
        return torch.nn.functional.normalize(sampled[0, :, 0].T, dim=1)


def check_sizes(image: Bytes, mask: Bytes) -> None:
    """See that an image (H, W, 3) and its mask (H, W) are of one size.

    Raises:
        LumenError: if they are not.
    """
    (height, width), (rows, columns) = image.shape[:2], mask.shape
    require(
        (rows, columns) == (height, width),
        f"the mask is of {columns}x{rows} pixels, the image of {width}x{height}",
    )


class Descriptor(ABC):
    """A way to describe pixels so that equal places get equal vectors. Backends: `descriptor.registry`.

    Attributes:
        name: of the backend.
        length: C, of a descriptor.
    """

    name: str
    length: int

    @abstractmethod
    def describe(self, image: Bytes, mask: Bytes) -> DescriptorMap:
        """Describe a whole frame.

        Args:
            image: (H, W, 3) uint8 RGB, of the recorded size.
            mask: (H, W) uint8, 255 = tissue.

        Raises:
            LumenError: if their sizes differ, or there is no tissue.
        """

    def describe_at(self, image: Bytes, keypoints: Floats) -> Tensor:
        """Descriptors (N, C) at pixels (N, 2), COLMAP's convention, of an image (H, W, 3) uint8 RGB."""
        return self.describe(image, np.full(image.shape[:2], 255, np.uint8)).at(keypoints)
