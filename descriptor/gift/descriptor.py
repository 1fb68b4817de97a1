"""GIFT as a descriptor backend, for keypoints of any image or a regular grid on video frames."""

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from descriptor.base import Descriptor, DescriptorMap, check_sizes
from descriptor.checkpoint import Checkpoint, fill
from descriptor.gift.homography import MIDDLE_GREY
from descriptor.gift.network import FEATURES, LENGTH, Embedder, Extractor, as_input, group_features
from descriptor.gift.transformations import TransformationGroup
from descriptor.network_frame import FittingDownsampling, NetworkFrame, common_size
from pipeline.arrays import Bytes, Float64s
from pipeline.conventions import colmap_from_index
from pipeline.errors import LumenError, require

METHOD = "gift"
PUBLISHED_ROTATIONS = 5
# Frames are downsampled to about the number of pixels of DDL's network, and described on a grid.
_FRAME_PIXELS, _FRAME_MULTIPLE = 81_920, 32
_STRIDE = 4

logger = logging.getLogger(__name__)


class GiftNetwork(nn.Module):
    """Extractor and embedder, under the published names.

    Args:
        rotations: rotations of the group, 5 or 8.
        embeds: whether the network has an embedder; after stage 1 of the training it has none.
    """

    def __init__(self, rotations: int = PUBLISHED_ROTATIONS, *, embeds: bool = True) -> None:
        super().__init__()
        self.group = TransformationGroup.of(rotations)
        self.extractor = Extractor()
        self.embedder = Embedder(closed=self.group.is_closed) if embeds else None

    @property
    def length(self) -> int:
        """C, the length of a descriptor."""
        return FEATURES if self.embedder is None else LENGTH

    def forward(self, images: Tensor, keypoints: Tensor) -> Tensor:
        """Descriptors (N, K, C) at keypoints (N, K, 2) px of images (N, 3, H, W).

        Without an embedder these are the features under the identity, neither scaled nor rotated.
        """
        if self.embedder is None:
            upright = replace(self.group, rotations_deg=(0.0,), scale_count=1)
            return group_features(self.extractor, upright, images, keypoints)[..., 0, 0]
        described: Tensor = self.embedder(group_features(self.extractor, self.group, images, keypoints))
        return described


class GiftDescriptor(Descriptor):
    """A trained GIFT.

    Args:
        network: the network, on its device, in evaluation mode.
        stride: grid spacing on the downsampled frame, px.
    """

    name = METHOD

    def __init__(self, network: GiftNetwork, stride: int = _STRIDE) -> None:
        self.network, self.length, self._stride = network, network.length, stride
        self._downsampling = FittingDownsampling()
        self._device = next(network.parameters()).device

    @staticmethod
    def recognises(names: Collection[str]) -> bool:
        """Whether weights with these names belong to this method."""
        return any(name.startswith("extractor.") for name in names)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, path: Path, device: torch.device, rotations: int | None = None
    ) -> Self:
        """Create the descriptor from a checkpoint, ours or a published one.

        Args:
            checkpoint: the loaded checkpoint.
            path: path of its file, for errors.
            device: device of the network.
            rotations: rotations of the group, 5 or 8, used if the file does not record them, as published files;
                default: 5.

        Raises:
            LumenError: if the weights belong to another network.
        """
        return cls(load_network(checkpoint, path, rotations).to(device).eval())

    @torch.inference_mode()
    def describe(self, image: Bytes, mask: Bytes) -> DescriptorMap:
        """See `Descriptor.describe`. A cell is `stride` pixels of the downsampled frame wide."""
        check_sizes(image, mask)
        downsampling = self._downsampling.of(mask, _FRAME_MULTIPLE, _FRAME_PIXELS)
        frame = NetworkFrame.of_mask(mask, downsampling, common_size([mask], downsampling, _FRAME_MULTIPLE))
        cells = _every(frame, self._stride)
        shown = frame.cut_mask(mask)
        tissue = cells.cut_mask(mask)
        # Black corners would create the strongest edges of the frame.
        cut = np.where(shown[..., None], frame.cut(image), np.uint8(MIDDLE_GREY))
        row, column = np.nonzero(tissue)
        places = frame.network_from_image(cells.image_from_network(colmap_from_index(np.stack([column, row], axis=1))))
        values = torch.zeros((*tissue.shape, self.length), device=self._device)
        values[row, column] = self._at(cut, places)
        return DescriptorMap(values.permute(2, 0, 1), torch.from_numpy(tissue), cells)

    @torch.inference_mode()
    def describe_at(self, image: Bytes, keypoints: Float64s) -> Tensor:
        """See `Descriptor.describe_at`; the image is not resized.

        Raises:
            LumenError: if it is too small for the smallest scale.
        """
        return self._at(image, keypoints)

    def _at(self, image: Bytes, keypoints: Float64s) -> Tensor:
        least = self.network.group.least_side_px
        require(
            min(image.shape[:2]) >= least,
            f"an image of {image.shape[1]}x{image.shape[0]} pixels is too small for GIFT, whose smallest scale is "
            f"1/{2 ** (self.network.group.scale_count - 1)}: enlarge it to {least} px or more on each side",
        )
        places = torch.from_numpy(np.asarray(keypoints, np.float64).reshape(1, -1, 2)).to(self._device)
        if not places.shape[1]:
            return torch.zeros((0, self.length), device=self._device)
        described: Tensor = self.network(as_input(np.ascontiguousarray(image)[None], self._device), places)
        return described[0]


def load_network(checkpoint: Checkpoint, path: Path, rotations: int | None = None) -> GiftNetwork:
    """Create the networks of a checkpoint.

    Raises:
        LumenError: if the weights do not fit GIFT, naming the first that does not.
    """
    if not GiftDescriptor.recognises(checkpoint.model):
        raise LumenError(f"{path} contains weights of a network other than GIFT")
    chosen = (checkpoint.config or {}).get("rotations") or rotations
    if chosen is None:
        chosen = PUBLISHED_ROTATIONS
        logger.info("%s does not record the rotations of its group: assuming %d, as published", path, chosen)
    require(chosen in (5, 8), f"{chosen} rotations: GIFT's group has 5 or 8")
    network = GiftNetwork(chosen, embeds=any(name.startswith("embedder.") for name in checkpoint.model))
    fill(network, checkpoint.model, path, "GIFT's network")
    return network


def _every(frame: NetworkFrame, stride: int) -> NetworkFrame:
    """The frame whose pixels are `stride` pixels of the given frame wide."""
    small = (round(frame.small_size[0] / stride), round(frame.small_size[1] / stride))
    origin = (round(frame.origin[0] / stride), round(frame.origin[1] / stride))
    return NetworkFrame(frame.image_size, small, origin, (frame.size[0] // stride, frame.size[1] // stride))
