"""Keypoint describers: SIFT, any backend of ours, and third-party packages."""

from pathlib import Path
from typing import Protocol

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import Descriptor
from descriptor.keypoints.detectors import Keypoints
from descriptor.keypoints.peers import PEERS
from descriptor.registry import load_descriptor
from pipeline.arrays import Bytes
from pipeline.conventions import opencv_from_colmap
from pipeline.errors import LumenError, require

# Size of keypoints from detectors without scale, px.
_SIFT_SIZE_PX = 12.0


class Describer(Protocol):
    """Describes keypoints.

    Attributes:
        name: name in tables.
    """

    name: str

    def describe(self, image: Bytes, keypoints: Keypoints) -> Tensor:
        """Unit-length descriptors (N, C) at keypoints of an image (H, W, 3) uint8 RGB."""


class SiftDescriber:
    """SIFT (Lowe, IJCV 2004) as RootSIFT (Arandjelović and Zisserman, CVPR 2012).

    Keypoints without scale and orientation are described upright, at one size.
    """

    name = "sift"

    def describe(self, image: Bytes, keypoints: Keypoints) -> Tensor:
        """See `Describer.describe`."""
        if not len(keypoints):
            return torch.zeros((0, 128))
        given = keypoints.sift or tuple(
            cv2.KeyPoint(float(x), float(y), _SIFT_SIZE_PX, 0.0) for x, y in opencv_from_colmap(keypoints.pixels)
        )
        kept, values = cv2.SIFT.create().compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), given)
        require(len(kept) == len(keypoints), "SIFT dropped some of the keypoints")
        return functional.normalize(torch.from_numpy(values).clamp(min=0), p=1, dim=1).sqrt()


class BackendDescriber:
    """Describes keypoints with a backend of ours.

    Args:
        descriptor: the backend.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self.name, self._descriptor = descriptor.name, descriptor

    def describe(self, image: Bytes, keypoints: Keypoints) -> Tensor:
        """See `Describer.describe`."""
        return self._descriptor.describe_at(image, keypoints.pixels)


def choose_describer(name: str, device: torch.device, rotations: int | None = None) -> Describer:
    """Choose SIFT, one of `descriptor.keypoints.peers`, or the backend of a checkpoint.

    Raises:
        LumenError: if the name is unknown, the file is not a checkpoint, or a package cannot be imported.
    """
    if name == SiftDescriber.name:
        return SiftDescriber()
    if name in PEERS:
        return PEERS[name](device)
    path = Path(name)
    if not path.exists():
        known = ", ".join((SiftDescriber.name, *PEERS))
        raise LumenError(f"--descriptor {name}: choose {known}, or give a checkpoint file")
    backend = load_descriptor(path, device, rotations)
    return BackendDescriber(backend)
