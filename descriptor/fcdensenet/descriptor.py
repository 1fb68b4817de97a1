"""DDL's network as a descriptor backend, with the frame geometry of its training."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Self

import torch

from descriptor.base import Descriptor, DescriptorMap, check_sizes
from descriptor.checkpoint import Checkpoint, fill
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape, shape_of
from descriptor.network_frame import FittingDownsampling, NetworkFrame, common_size
from pipeline.arrays import Bytes
from pipeline.errors import LumenError

METHOD = "fcdensenet"
# Training settings of the published network, which its files do not record.
_PUBLISHED = {"image_downsampling": 4.0, "network_downsampling": 64}

logger = logging.getLogger(__name__)


class FCDenseNetDescriptor(Descriptor):
    """A trained network with its geometry.

    Args:
        network: on its device, in evaluation mode.
        image_downsampling: factor by which frames are downsampled.
        network_downsampling: height and width of the network's frame are multiples of this.
        network_pixels: maximum number of pixels of the network's frame. If given, it determines the downsampling from
            the content area as in training, so that videos of any size are described at the trained scale.
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
        """Whether weights with these names belong to this method."""
        return "finalConv.weight" in names

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, path: Path, device: torch.device) -> Self:
        """Create the descriptor from a checkpoint, ours or DDL's; the weights determine the network's shape.

        Args:
            checkpoint: the loaded checkpoint.
            path: path of its file, for errors.
            device: device of the network.

        Raises:
            LumenError: if the weights belong to another network.
        """
        network = load_network(checkpoint, path).to(device).eval()
        config = checkpoint.config or {}
        downsampling, multiple = (config.get(name) or published for name, published in _PUBLISHED.items())
        return cls(network, float(downsampling), int(multiple), config.get("network_pixels"))

    @torch.inference_mode()
    def describe(self, image: Bytes, mask: Bytes) -> DescriptorMap:
        """See `Descriptor.describe`. Values are compact descriptors (`FCDenseNet.compact`)."""
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
    """Create the network of a checkpoint.

    Raises:
        LumenError: if the weights do not fit, naming the first that does not.
    """
    shape: NetworkShape | None = shape_of(checkpoint.model)
    if shape is None:
        raise LumenError(f"{path} contains weights of a network other than the dense descriptor (fcdensenet)")
    if checkpoint.config is None:
        logger.info(
            "%s does not record its training settings: assuming those of DDL's published network (frames downsampled "
            "by %g, no contrast normalisation)",
            path,
            _PUBLISHED["image_downsampling"],
        )
    network = FCDenseNet(shape, float((checkpoint.config or {}).get("contrast_radius") or 0.0))
    fill(network, checkpoint.model, path, "the dense descriptor")
    return network
