"""GIFT's two networks: an extractor of local features, and an embedder with convolutions over the group."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from descriptor.gift.homography import MIDDLE_GREY
from descriptor.gift.transformations import TransformationGroup
from pipeline.arrays import Bytes

FEATURES = 32
_HIDDEN = 64
_POOLED = (8, 16)
LENGTH = _POOLED[0] * _POOLED[1]
# Keypoints per batch of the embedder: 32 MiB in the widest layer.
_KEYPOINTS_AT_ONCE = 4096
_GREYS = 128.0


def as_input(images: Bytes, device: torch.device) -> Tensor:
    """Images (N, H, W, 3) uint8 RGB → (N, 3, H, W) float32, about -1..1; middle grey becomes 0."""
    return (torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() - MIDDLE_GREY) / _GREYS


class Extractor(nn.Module):
    """The published "VanillaLightCNN": unit-length features at half the image resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.extractor = nn.ModuleDict(
            {"conv0": _two_convolutions(3, 16, FEATURES), "conv1": _two_convolutions(FEATURES, FEATURES, FEATURES)}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) → (N, 32, H / 2, W / 2), rounded down."""
        # Channels-last saves a third of the convolution time on the CPU.
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.extractor["conv0"](images)
        features = functional.avg_pool2d(functional.relu(features, inplace=True), 2)
        return functional.normalize(self.extractor["conv1"](features), dim=1)


def _two_convolutions(channels: int, between: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, between, 5, padding=2, bias=False),
        nn.InstanceNorm2d(between),
        nn.ReLU(inplace=True),
        nn.Conv2d(between, out, 5, padding=2, bias=False),
        nn.InstanceNorm2d(out),
    )


def group_features(extractor: Extractor, group: TransformationGroup, images: Tensor, keypoints: Tensor) -> Tensor:
    """The features of keypoints under every element of the group: GIFT, equation 1.

    Args:
        extractor: the feature extractor.
        group: the transformation group.
        images: (N, 3, H, W) from `as_input`.
        keypoints: (N, K, 2) px, COLMAP's convention.

    Returns:
        (N, K, 32, scales, rotations), unit length over the features.
    """
    found = []
    for _, element, warped in group.warps(images):
        features = extractor(warped)
        # The feature map has half the size, rounded down.
        places = element.apply(keypoints.double()) / 2 / torch.tensor(features.shape[:1:-1], device=keypoints.device)
        grid = (places * 2 - 1).to(features)
        sampled = functional.grid_sample(features, grid[:, None], padding_mode="border", align_corners=False)
        found.append(functional.normalize(sampled[:, :, 0], dim=1).transpose(1, 2))
    return torch.stack(found, dim=-1).unflatten(-1, group.shape)


class Embedder(nn.Module):
    """Two branches of group convolutions with bilinear pooling: GIFT, section 3.3.

    Args:
        closed: whether the rotations cover the full circle, so that the last is adjacent to the first.
    """

    def __init__(self, *, closed: bool = False) -> None:
        super().__init__()
        self._closed = closed
        layers: dict[str, nn.Module] = {}
        for branch, out in enumerate(_POOLED, start=1):
            for block, channels in ((1, FEATURES), (2, _HIDDEN)):
                layers[f"network{branch}_embed{block}"] = _layers(channels, _HIDDEN)
                layers[f"network{branch}_embed{block}_short"] = nn.Conv2d(channels, _HIDDEN, 1)
            layers[f"network{branch}_embed3"] = _layers(_HIDDEN, out)
        self.embedder = nn.ModuleDict(layers)
        self._initialize()

    def forward(self, features: Tensor) -> Tensor:
        """Group features (..., 32, scales, rotations) → descriptors (..., 128), unit length."""
        flat = features.flatten(0, -4)
        described = torch.cat([self._describe(part) for part in flat.split(_KEYPOINTS_AT_ONCE)])
        return described.unflatten(0, features.shape[:-3])

    def _describe(self, features: Tensor) -> Tensor:
        # Channels-last saves a quarter of the convolution time on the CPU.
        features = features.contiguous(memory_format=torch.channels_last)
        first, second = (self._branch(features, number).flatten(2) for number in (1, 2))
        return functional.normalize((first @ second.transpose(1, 2)).flatten(1), dim=1)

    def _initialize(self) -> None:
        # The common mean of ReLU outputs must not reach the descriptors. With PyTorch's default weights, products of
        # descriptors start at 0.92 to 0.997, depending on the seed; hard negatives can then collapse all descriptors,
        # and the loss stays at the margin. With zero-mean kernels, products start below 0.3.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                with torch.no_grad():
                    module.weight -= module.weight.mean(dim=(1, 2, 3), keepdim=True)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def _branch(self, features: Tensor, number: int) -> Tensor:
        for block in (1, 2):
            name = f"network{number}_embed{block}"
            short = self.embedder[f"{name}_short"](features)
            features = functional.relu(self._two(features, name) + short)
        return self._two(features, f"network{number}_embed3")

    def _two(self, features: Tensor, name: str) -> Tensor:
        layers = self.embedder[name]
        assert isinstance(layers, nn.Sequential)
        first, second = layers[0], layers[2]
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        return self._convolve(functional.relu(self._convolve(features, first)), second)

    def _convolve(self, features: Tensor, layer: nn.Conv2d) -> Tensor:
        if not self._closed:
            return layer(features)
        around = functional.pad(functional.pad(features, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
        return functional.conv2d(around, layer.weight, layer.bias)


def _layers(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, _HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(_HIDDEN, out, 3, padding=1))
