"""DDL's network as a backend: frames in, dense descriptors out, in the geometry it was trained in."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Self

import torch

from descriptor.base import Bytes, Descriptor, DescriptorMap, check_sizes
from descriptor.checkpoint import Checkpoint, fill
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape, shape_of
from descriptor.network_frame import FittingDownsampling, NetworkFrame, common_size
from pipeline.errors import LumenError

METHOD = "fcdensenet"
# What the published network was trained with, whose files do not say.
_PUBLISHED = {"image_downsampling": 4.0, "network_downsampling": 64}

logger = logging.getLogger(__name__)


class FCDenseNetDescriptor(Descriptor):
    """A trained network with its geometry.

    Args:
        network: on its device, in evaluation mode.
        image_downsampling: frames are made smaller by this.
        network_downsampling: the network frame's sides are multiples of this.
        network_pixels: most of the network's frame; chooses the downsampling by the content area if it is given, as it
            did in training, so that videos of any size are seen at the scale that the network knows.
    """

    name = METHOD

    def __init__(
        self,
        network: FCDenseNet,
        image_downsampling: float,
        network_downsampling: int,
        network_pixels: int | None = None,
    ) -> None:
        self.network = network
        self.length = network.compact_length
        self.image_downsampling, self.network_downsampling = image_downsampling, network_downsampling
        self.network_pixels = network_pixels
        self._fitting = FittingDownsampling()

    @staticmethod
    def recognises(names: Collection[str]) -> bool:
        """Whether weights of these names are those of this method."""
        return "finalConv.weight" in names

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, path: Path, device: torch.device) -> Self:
        """The descriptor of a checkpoint of ours or DDL's; the network's shape is that of its weights.

        Args:
            checkpoint: what was read.
            path: of its file, for errors.
            device: where to put it.

        Raises:
            LumenError: if it is of another network.
        """
        network = load_network(checkpoint, path).to(device).eval()
        config = checkpoint.config or {}
        downsampling, multiple = (config.get(name) or published for name, published in _PUBLISHED.items())
        return cls(network, float(downsampling), int(multiple), config.get("network_pixels"))

    @torch.inference_mode()
    def describe(self, image: Bytes, mask: Bytes) -> DescriptorMap:
        """See `Descriptor.describe`. Values are in the coordinates of `FCDenseNet.compact`."""
        check_sizes(image, mask)
        downsampling = self._downsampling(mask)
        frame = NetworkFrame.of_mask(mask, downsampling, common_size([mask], downsampling, self.network_downsampling))
        tissue = frame.cut_mask(mask)
        described = self.network.describe(frame.cut(image)[None], tissue[None])[0]
        return DescriptorMap(described.permute(2, 0, 1), torch.from_numpy(tissue), frame)

    def _downsampling(self, mask: Bytes) -> float:
        if self.network_pixels is None:
            return self.image_downsampling
        return self._fitting.of(mask, self.network_downsampling, self.network_pixels)


def load_network(checkpoint: Checkpoint, path: Path) -> FCDenseNet:
    """The network whose weights a checkpoint holds.

    Raises:
        LumenError: if they are not those of this network, naming the first that does not fit.
    """
    shape: NetworkShape | None = shape_of(checkpoint.model)
    if shape is None:
        raise LumenError(f"{path} holds the weights of another network than the dense descriptor's (fcdensenet)")
    if checkpoint.config is None:
        logger.info(
            "%s does not say how it was trained: taken to be as DDL's published network, on frames of 1/%g of the size "
            "without equal contrast",
            path,
            _PUBLISHED["image_downsampling"],
        )
    network = FCDenseNet(shape, float((checkpoint.config or {}).get("contrast_radius") or 0.0))
    fill(network, checkpoint.model, path, "the dense descriptor's network")
    return network
