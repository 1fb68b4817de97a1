"""GIFT's transformation group: scales and rotations that warp images and move keypoints."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SCALE_FACTOR = 0.5
_BLUR_PX, _BLUR_SIGMA_PX = 5, 1.5
# Smallest side of a warped image that the extractor can process.
_LEAST_SIDE_PX = 4


@dataclass(frozen=True)
class Transformation:
    """An element of the group: p' = matrix p + offset, pixels in COLMAP's convention on both sides.

    Attributes:
        matrix: (2, 2) float64, scale times rotation.
        offset: (2,) float64, px.
        size: height and width of the smallest canvas that holds the transformed image, px.
    """

    matrix: Tensor
    offset: Tensor
    size: tuple[int, int]

    def apply(self, pixels: Tensor) -> Tensor:
        """Map pixels (..., 2) of the image to the canvas."""
        return pixels @ self.matrix.to(pixels).T + self.offset.to(pixels)

    def warp(self, images: Tensor) -> Tensor:
        """Warp images (N, C, H, W) to the canvas with bilinear interpolation; 0 outside the image."""
        count, _, height, width = images.shape
        rows, columns = self.size
        inverse = torch.linalg.inv(self.matrix)
        # affine_grid and grid_sample use coordinates from -1 to 1 between the outer edges of both images.
        to_canvas = torch.tensor([columns / 2, rows / 2], dtype=torch.float64)
        from_image = torch.tensor([2 / width, 2 / height], dtype=torch.float64)
        linear = from_image[:, None] * inverse * to_canvas
        middle = from_image * (inverse @ (to_canvas - self.offset)) - 1
        theta = torch.cat([linear, middle[:, None]], dim=1).to(images).expand(count, 2, 3)
        grid = functional.affine_grid(theta, [count, 1, rows, columns], align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class TransformationGroup:
    """The product of scales and rotations.

    Attributes:
        rotations_deg: ascending, evenly spaced; from x towards y, which is clockwise in the image.
        scale_count: number of scales 1, 1/2, 1/4, ...
    """

    rotations_deg: tuple[float, ...]
    scale_count: int = 5

    @classmethod
    def of(cls, rotations: int) -> "TransformationGroup":
        """The published group with 5 rotations from -90 to 90 degrees, or with 8 from -180 to 135."""
        first = {5: -90.0, 8: -180.0}[rotations]
        return cls(tuple(first + 45.0 * number for number in range(rotations)))

    @property
    def is_closed(self) -> bool:
        """Whether the rotations cover the full circle."""
        step = self.rotations_deg[1] - self.rotations_deg[0]
        return len(self.rotations_deg) * step == 360

    @property
    def shape(self) -> tuple[int, int]:
        """Number of scales and rotations."""
        return self.scale_count, len(self.rotations_deg)

    @property
    def least_side_px(self) -> int:
        """Smallest side of an image that can be described."""
        return int(_LEAST_SIDE_PX / _SCALE_FACTOR ** (self.scale_count - 1))

    def transformation(self, scale: int, rotation: int, size: tuple[int, int]) -> Transformation:
        """The element at a lattice position, for images of `size` (height, width)."""
        angle = math.radians(self.rotations_deg[rotation])
        cosine, sine = (round(value, 12) for value in (math.cos(angle), math.sin(angle)))
        matrix = _SCALE_FACTOR**scale * torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        height, width = size
        corners = torch.tensor([[0, 0], [width, 0], [0, height], [width, height]], dtype=torch.float64) @ matrix.T
        low, high = corners.min(dim=0).values, corners.max(dim=0).values
        # The image is centred on the rounded-up canvas.
        columns, rows = (max(1, math.ceil(round(float(side), 6))) for side in high - low)
        canvas = torch.tensor([columns, rows], dtype=torch.float64)
        return Transformation(matrix, (canvas - (high + low)) / 2, (rows, columns))

    def warps(self, images: Tensor) -> Iterator[tuple[tuple[int, int], Transformation, Tensor]]:
        """Yield each element's lattice position (scale, rotation), the element, and the warped images (N, C, h, w).

        The images are blurred once more before each smaller scale. Pixels outside the image are 0.
        """
        size = (images.shape[2], images.shape[3])
        for scale in range(self.scale_count):
            if scale:
                images = blur(images)
            for rotation in range(len(self.rotations_deg)):
                element = self.transformation(scale, rotation, size)
                yield (scale, rotation), element, element.warp(images)


def blur(images: Tensor) -> Tensor:
    """Blur images (N, C, H, W) with GIFT's Gaussian, mirrored at the edges."""
    half = _BLUR_PX // 2
    place = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    weights = torch.exp(-0.5 * (place / _BLUR_SIGMA_PX) ** 2)
    channels = images.shape[1]
    weights = (weights / weights.sum()).expand(channels, 1, _BLUR_PX)
    images = functional.pad(images, (half, half, half, half), mode="reflect")
    images = functional.conv2d(images, weights[:, :, None], groups=channels)
    return functional.conv2d(images, weights[..., None], groups=channels)
