"""The dense descriptor's network: a fully convolutional DenseNet (Jégou et al., CVPRW 2017) as used by DDL.

Output and parameter names equal those of the published network. The implementation differs for speed:

- Memory layout is channels-last on GPUs (not measured), and on CPUs for inference. Training on a CPU is faster with
  channels first, which halves the time of the weight gradients.
- The last layer is linear, so descriptors d = W f + b have at most `len(features) + 1` degrees of freedom: with W of
  256 x 106 they lie in a space of 107 dimensions. `compact` returns coordinates in an orthonormal basis of this space.
  Products of descriptors are unchanged, at less than half the memory traffic and arithmetic. Training computes them
  only at the pixels it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.arrays import Bools, Bytes, Float32s

DOWN_BLOCKS = 5
LAYERS_PER_BLOCK = 3
BOTTLENECK_LAYERS = 4
FIRST_CHANNELS = 16
# Image sides must be multiples of this, or pooling truncates them.
DOWNSAMPLING = 2**DOWN_BLOCKS
# Local contrast: levels added to the local deviation, so that noise in flat areas stays small.
_NOISE_LEVELS = 3.0
# A deviation of one becomes this many levels around the middle grey.
_LEVELS = 50.0
_MIDDLE = 128


@dataclass(frozen=True)
class NetworkShape:
    """Variable dimensions of the network.

    Attributes:
        feature_length: length of a descriptor.
        growth: channels that each dense layer adds.
    """

    feature_length: int = 256
    growth: int = 10


class _DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.conv(functional.relu(self.norm(features), inplace=True))
        return added


class _DenseBlock(nn.Module):
    """Layers that each read the outputs of all preceding layers.

    Args:
        keeps_input: whether the output starts with the input, followed by the channels that the layers added.
    """

    def __init__(self, channels: int, growth: int, layers: int, *, keeps_input: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DenseLayer(channels + number * growth, growth) for number in range(layers))
        self._keeps_input = keeps_input

    def forward(self, features: Tensor) -> Tensor:
        added: list[Tensor] = []
        for layer in self.layers:
            seen = torch.cat([features, *added], dim=1) if added else features
            added.append(layer(seen))
        return torch.cat([features, *added] if self._keeps_input else added, dim=1)


class _TransitionDown(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        mixed = self.conv(functional.relu(self.norm(features), inplace=True))
        return functional.max_pool2d(mixed, 2)


class _TransitionUp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # The published name of the convolution is its index after the upsampling.
        self.convTrans = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        larger = self.convTrans(features)
        height, width = skip.shape[2:]
        top, left = (larger.shape[2] - height) // 2, (larger.shape[3] - width) // 2
        return torch.cat([larger[:, :, top : top + height, left : left + width], skip], dim=1)


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.bottleneck = _DenseBlock(channels, growth, layers, keeps_input=False)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.bottleneck(features)
        return result


class FCDenseNet(nn.Module):
    """Image → a descriptor per pixel.

    Args:
        shape: dimensions of the network.
        contrast_radius: radius of the local contrast normalisation of frames, px; 0 for none, as in DDL.
    """

    def __init__(self, shape: NetworkShape, contrast_radius: float = 0.0) -> None:
        super().__init__()
        self.shape, self.contrast_radius = shape, contrast_radius
        # Memory layout of the convolutions; None chooses by device and mode.
        self.layout: torch.memory_format | None = None
        growth, added = shape.growth, LAYERS_PER_BLOCK * shape.growth
        self.firstconv = nn.Conv2d(3, FIRST_CHANNELS, 3, padding=1)
        channels, skips = FIRST_CHANNELS, []
        self.denseBlocksDown = nn.ModuleList()
        self.transDownBlocks = nn.ModuleList()
        for _ in range(DOWN_BLOCKS):
            self.denseBlocksDown.append(_DenseBlock(channels, growth, LAYERS_PER_BLOCK, keeps_input=True))
            channels += added
            skips.append(channels)
            self.transDownBlocks.append(_TransitionDown(channels))
        self.bottleneck = _Bottleneck(channels, growth, BOTTLENECK_LAYERS)
        channels = BOTTLENECK_LAYERS * growth
        self.transUpBlocks = nn.ModuleList()
        self.denseBlocksUp = nn.ModuleList()
        for number, skip in enumerate(reversed(skips)):
            last = number == DOWN_BLOCKS - 1
            self.transUpBlocks.append(_TransitionUp(channels))
            self.denseBlocksUp.append(_DenseBlock(channels + skip, growth, LAYERS_PER_BLOCK, keeps_input=last))
            channels = channels + skip + added if last else added
        self.finalConv = nn.Conv2d(channels, shape.feature_length, 1)

    @property
    def compact_length(self) -> int:
        """D, the length of a compact descriptor."""
        return min(self.shape.feature_length, self.finalConv.in_channels + 1)

    def hidden_kernels(self) -> list[Tensor]:
        """Kernels of all convolutions except the first and the last."""
        ends = {self.firstconv, self.finalConv}
        return [each.weight for each in self.modules() if isinstance(each, nn.Conv2d) and each not in ends]

    def input(self, frames: Bytes, masks: Bools) -> Tensor:
        """Bytes (N, H, W, 3) uint8 RGB → (N, 3, H, W) float32, -1..1, on the network's device."""
        images = normalize_locally(frames, masks, self.contrast_radius)
        return network_input(torch.from_numpy(images).to(self.finalConv.weight.device))

    def describe(self, frames: Bytes, masks: Bools) -> Tensor:
        """Compact descriptors of frames.

        Args:
            frames: (N, H, W, 3) uint8 RGB.
            masks: (N, H, W) bool, pixels that show tissue.

        Returns:
            (N, H, W, D), unit length over the last dimension.
        """
        return self.compact(self.input(frames, masks))

    def features(self, images: Tensor) -> Tensor:
        """Input of the last, linear layer.

        Args:
            images: (N, 3, H, W) RGB, -1..1.

        Returns:
            (N, 16 + 9 * growth, H, W).

        Raises:
            ValueError: if H or W is not a multiple of DOWNSAMPLING.
        """
        if images.shape[2] % DOWNSAMPLING or images.shape[3] % DOWNSAMPLING:
            raise ValueError(f"height and width must be multiples of {DOWNSAMPLING}, not {tuple(images.shape[2:])}")
        channels_last = images.is_cuda or not self.training
        chosen = torch.channels_last if channels_last else torch.contiguous_format
        # Convolutions keep the layout of their input.
        found = self.firstconv(images.contiguous(memory_format=self.layout or chosen))
        skips = []
        for dense, down in zip(self.denseBlocksDown, self.transDownBlocks, strict=True):
            found = dense(found)
            skips.append(found)
            found = down(found)
        found = self.bottleneck(found)
        for up, dense in zip(self.transUpBlocks, self.denseBlocksUp, strict=True):
            found = dense(up(found, skips.pop()))
        return found

    def compact(self, images: Tensor) -> Tensor:
        """Compact descriptors: fewer coordinates, same products.

        Args:
            images: (N, 3, H, W) RGB, -1..1.

        Returns:
            (N, H, W, D), D at most `feature_length`, unit length over the last dimension.
        """
        return self.compact_of(self.features(images).permute(0, 2, 3, 1))

    def compact_of(self, features: Tensor) -> Tensor:
        """Compact descriptors of the output of `features` at any pixels.

        The last layer is linear, so descriptors W f + b before normalisation lie in a space of `len(f) + 1` dimensions.
        With the Cholesky factor RᵀR = [W b]ᵀ[W b], the vectors R (f, 1) have the same products as W f + b.

        Args:
            features: (..., 16 + 9 * growth).

        Returns:
            (..., D), unit length over the last dimension.
        """
        weight, bias = self.finalConv.weight[:, :, 0, 0], self.finalConv.get_parameter("bias")
        if self.compact_length < self.shape.feature_length:
            basis = torch.cat([weight, bias[:, None]], dim=1).double()
            products = basis.T @ basis
            # A small diagonal term keeps the matrix positive definite when [W b] is rank-deficient.
            jitter = 1e-12 * products.detach().diagonal().mean()
            root = torch.linalg.cholesky(products + jitter * torch.eye(len(products)).to(products)).T.to(features.dtype)
            weight, bias = root[:, :-1], root[:, -1]
        return functional.normalize(functional.linear(features, weight, bias), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """Full descriptors.

        Args:
            images: (N, 3, H, W) RGB, -1..1.

        Returns:
            (N, feature_length, H, W), unit length over the channels.
        """
        return functional.normalize(self.finalConv(self.features(images)), dim=1)


def shape_of(weights: Mapping[str, Tensor]) -> NetworkShape | None:
    """The dimensions of a network from its weights; None if they belong to another network."""
    final, layer = weights.get("finalConv.weight"), weights.get("denseBlocksDown.0.layers.0.conv.weight")
    if final is None or layer is None or final.ndim != 4 or layer.ndim != 4:
        return None
    return NetworkShape(len(final), len(layer))


def network_input(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 RGB → (N, 3, H, W) float32, -1..1."""
    return images.permute(0, 3, 1, 2).to(torch.float32).mul_(2 / 255).sub_(1)


def normalize_locally(frames: Bytes, masks: Bools, radius_px: float) -> Bytes:
    """Normalise local mean and deviation of each channel (divisive normalisation).

    The light moves with the scope, so shading depends on the view and texture on the tissue. Mean and deviation are
    weighted by a Gaussian and computed over tissue only.

    Args:
        frames: (N, H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, pixels that show tissue; other pixels become black.
        radius_px: standard deviation of the Gaussian; 0 returns the frames unchanged.
    """
    if radius_px <= 0:
        return frames
    changed = np.empty_like(frames)
    for before, mask, after in zip(frames, masks, changed, strict=True):
        tissue = mask.astype(np.float32)[..., None]
        weight = np.maximum(_blur(tissue, radius_px), 1e-3)
        values = before * tissue
        values -= _blur(values, radius_px) / weight
        values *= tissue
        deviation = np.sqrt(_blur(values * values, radius_px) / weight)
        after[:] = np.clip(_MIDDLE + _LEVELS * values / (deviation + _NOISE_LEVELS), 0, 255) * tissue
    return changed


def _blur(values: Float32s, radius_px: float) -> Float32s:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), radius_px), np.float32).reshape(values.shape)
