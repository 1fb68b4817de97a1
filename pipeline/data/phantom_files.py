"""Files of a phantom, a rendered video with its exact ground truth: file names, and the ground truth of each frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml

FORMAT_VERSION = 1
DEPTH_UNIT_MM = 0.005


@dataclass(frozen=True)
class PhantomPaths:
    """Every file name of a phantom."""

    root: Path

    @property
    def video(self) -> Path:
        return self.root / "video.mp4"

    @property
    def truth(self) -> Path:
        """Config, camera and ground truth of each frame. A folder with this file is a phantom."""
        return self.root / "truth.yaml"

    @property
    def calibration(self) -> Path:
        """The camera in the format of OpenCV's FileStorage and in OpenCV's pixel convention."""
        return self.root / "calibration.yaml"

    @property
    def poses(self) -> Path:
        """`cam_from_world`, (N, 3, 4) float64, mm."""
        return self.root / "cam_from_world.npy"

    @property
    def mask(self) -> Path:
        """The content area: uint8 PNG, 255 = inside."""
        return self.root / "mask.png"

    @property
    def mesh(self) -> Path:
        return self.root / "mesh.ply"

    @property
    def depths(self) -> Path:
        return self.root / "depth"

    def depth(self, frame: int) -> Path:
        """Depth along the optical axis: uint16 PNG in units of DEPTH_UNIT_MM, 0 = unknown."""
        return self.depths / f"{frame:08d}.png"

    @property
    def report(self) -> Path:
        return self.root / "reports" / "phantom.json"


@dataclass(frozen=True)
class FrameTruth:
    """Ground truth of one frame of the video.

    Attributes:
        index: frame index in the video, from 0.
        timestamp_s: presentation time, index / fps.
        segment: number of hard cuts before the frame.
        content_index: the frame whose image is shown: `index`, or the frame before for a duplicate.
        is_duplicate: the frame repeats the previous one exactly.
        is_black: the frame is black.
        exposure_gain: the factor between light and signal.
    """

    index: int
    timestamp_s: float
    segment: int
    content_index: int
    is_duplicate: bool
    is_black: bool
    exposure_gain: float


def read_facts(paths: PhantomPaths) -> dict[str, Any]:
    """The content of `truth.yaml`.

    Raises:
        LumenError: if there is no phantom, or it has another format version.
    """
    facts = read_yaml(paths.truth)
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise LumenError(
            f"{paths.truth} has format {version}, but this version reads {FORMAT_VERSION}: render the phantom again"
        )
    return dict(facts)
