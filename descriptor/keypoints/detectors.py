"""Keypoint detectors, by name or from a weight file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from descriptor.checkpoint import Checkpoint
from pipeline.arrays import Bytes, Float64s
from pipeline.conventions import colmap_from_index, colmap_from_opencv
from pipeline.errors import LumenError

_HARRIS_QUALITY, _HARRIS_SPACING_PX = 1e-4, 4.0
_SUPERPOINT_CELL_PX, _SUPERPOINT_RADIUS_PX, _SUPERPOINT_BORDER_PX = 8, 4, 4
_SUPERPOINT_LEAST_SCORE = 0.005


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of an image, the best first.

    Attributes:
        pixels: (N, 2) px, COLMAP's convention.
        sift: N OpenCV keypoints with size, orientation and octave, if detected by SIFT.
    """

    pixels: Float64s
    sift: tuple[cv2.KeyPoint, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)


class Detector(Protocol):
    """Detects keypoints.

    Attributes:
        name: name in tables.
    """

    name: str

    def detect(self, image: Bytes, count: int) -> Keypoints:
        """At most `count` keypoints of an image (H, W, 3) uint8 RGB."""


class SiftDetector:
    """SIFT's scale-space extrema (Lowe, IJCV 2004) with the highest contrast."""

    name = "sift"

    def detect(self, image: Bytes, count: int) -> Keypoints:
        """See `Detector.detect`. A position with several orientations is one keypoint with the first of them."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = sorted(cv2.SIFT.create().detect(grey, None), key=lambda each: -each.response)
        best = list({each.pt: each for each in reversed(found)}.values())[::-1][:count]
        places = np.array([each.pt for each in best], np.float64).reshape(-1, 2)
        return Keypoints(np.asarray(colmap_from_opencv(places), np.float64), tuple(best))


class HarrisDetector:
    """Harris corners (Harris and Stephens, 1988)."""

    name = "harris"

    def detect(self, image: Bytes, count: int) -> Keypoints:
        """See `Detector.detect`."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = cv2.goodFeaturesToTrack(
            grey, count, _HARRIS_QUALITY, _HARRIS_SPACING_PX, useHarrisDetector=True, k=0.04
        )
        places = np.zeros((0, 2)) if found is None else found.reshape(-1, 2).astype(np.float64)
        return Keypoints(np.asarray(colmap_from_opencv(places), np.float64))


class GridDetector:
    """A regular grid, independent of the image content."""

    name = "grid"

    def detect(self, image: Bytes, count: int) -> Keypoints:
        """See `Detector.detect`."""
        height, width = image.shape[:2]
        step = max(1, int(np.ceil(np.sqrt(height * width / count))))
        column, row = np.meshgrid(np.arange(step // 2, width, step), np.arange(step // 2, height, step))
        return Keypoints(colmap_from_index(np.stack([column.ravel(), row.ravel()], axis=1))[:count])


class SuperPointNetwork(nn.Module):
    """The detector of SuperPoint (DeTone et al., CVPRW 2018), under its published names."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"1a": (1, 64), "1b": (64, 64), "2a": (64, 64), "2b": (64, 64), "3a": (64, 128), "3b": (128, 128)}
        sizes |= {"4a": (128, 128), "4b": (128, 128), "Pa": (128, 256)}
        for name, (channels, out) in sizes.items():
            setattr(self, f"conv{name}", nn.Conv2d(channels, out, 3, padding=1))
        self.convPb = nn.Conv2d(256, _SUPERPOINT_CELL_PX**2 + 1, 1)

    def forward(self, grey: Tensor) -> Tensor:
        """(1, 1, H, W), 0..1 → keypoint probability per pixel, (H, W) rounded down to multiples of 8."""
        features = grey
        for name in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "Pa"):
            features = functional.relu(getattr(self, f"conv{name}")(features))
            if name in ("1b", "2b", "3b"):
                features = functional.max_pool2d(features, 2)
        # The last class is "no keypoint in this cell".
        likely = functional.softmax(self.convPb(features), dim=1)[:, :-1]
        return functional.pixel_shuffle(likely, _SUPERPOINT_CELL_PX)[0, 0]


class SuperPointDetector:
    """SuperPoint with weights supplied by the user."""

    name = "superpoint"

    def __init__(self, network: SuperPointNetwork) -> None:
        self._network = network.eval()

    @classmethod
    def from_file(cls, path: Path) -> "SuperPointDetector":
        """Read a published state dict; weights of its descriptor are ignored.

        Raises:
            LumenError: if the file is missing or damaged, contains code, weights are not finite, or it belongs to
                another network.
        """
        content = Checkpoint.load(path).model
        network = SuperPointNetwork()
        wanted = network.state_dict()
        for name, value in wanted.items():
            have = content.get(name)
            if have is None or have.shape != value.shape:
                shape = "x".join(map(str, value.shape))
                raise LumenError(f"{path} contains no detector weights: SuperPoint needs {name} of shape {shape}")
        network.load_state_dict({name: content[name] for name in wanted})
        return cls(network)

    @torch.inference_mode()
    def detect(self, image: Bytes, count: int) -> Keypoints:
        """See `Detector.detect`: the most likely pixels, with non-maximum suppression within 4 px."""
        grey = torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).float()[None, None] / 255
        likely = self._network(grey)
        size = 2 * _SUPERPOINT_RADIUS_PX + 1
        highest = functional.max_pool2d(likely[None, None], size, stride=1, padding=_SUPERPOINT_RADIUS_PX)[0, 0]
        peaks = (likely == highest) & (likely > _SUPERPOINT_LEAST_SCORE)
        border = _SUPERPOINT_BORDER_PX
        inside = torch.zeros_like(peaks)
        inside[border:-border, border:-border] = True
        row, column = (peaks & inside).nonzero(as_tuple=True)
        best = likely[row, column].argsort(descending=True)[:count]
        return Keypoints(colmap_from_index(torch.stack([column[best], row[best]], dim=1).numpy()))


DETECTORS: dict[str, type[SiftDetector] | type[HarrisDetector] | type[GridDetector]] = {
    each.name: each for each in (SiftDetector, HarrisDetector, GridDetector)
}


def choose_detector(name: str) -> Detector:
    """Choose a detector by name, or SuperPoint by its weight file.

    Raises:
        LumenError: if the name is neither.
    """
    if name in DETECTORS:
        return DETECTORS[name]()
    if not Path(name).exists():
        raise LumenError(f"--detector {name}: choose {', '.join(DETECTORS)}, or give a file of SuperPoint weights")
    return SuperPointDetector.from_file(Path(name))
