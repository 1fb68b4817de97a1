"""A sequence as the first SfM takes it: frames, content area, and a camera if one is known."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from data_prep.sequence_undistortion import recorded_sequence
from pipeline.errors import LumenError, require
from pipeline.paths import RunPaths, SequencePaths
from pipeline.sequence import Sequence
from pipeline.training_data import Bytes
from pipeline.training_files import read_mask

MIN_FRAMES = 3
MIN_SIDE_PX = 32


@dataclass(frozen=True)
class InputVideo:
    """A sequence to reconstruct.

    Attributes:
        paths: the sequence.
        source: where the frames are read from: as recorded, if the camera is to be estimated.
        facts: the source's `sequence.yaml`.
        mask: (H, W) uint8 content area of the source's frames.
    """

    paths: SequencePaths
    source: SequencePaths
    facts: Sequence
    mask: Bytes

    @property
    def frame_index(self) -> list[int]:
        return sorted(frame.index for frame in self.facts.frames)

    @property
    def size(self) -> tuple[int, int]:
        return self.facts.width, self.facts.height

    @property
    def camera(self) -> pycolmap.Camera | None:
        """The calibrated camera; None if it is to be estimated."""
        if self.facts.calibration.state == "uncalibrated":
            return None
        width, height = self.size
        camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=self.facts.calibration.pinhole)
        camera.has_prior_focal_length = True
        return camera

    @property
    def content_box(self) -> tuple[int, int, int, int]:
        left, top, width, height = cv2.boundingRect(self.mask)
        return left, top, left + width, top + height

    @classmethod
    def read(cls, folder: Path) -> "InputVideo":
        """Read a sequence's facts and content area.

        Raises:
            LumenError: if it is no sequence, its content area is empty or of another size, or it has too few frames.
        """
        require(folder.is_dir(), f"{folder} is not a folder")
        paths = SequencePaths(folder)
        if not paths.sequence.exists():
            inside = [found.root for found in RunPaths(folder).sequences()]
            hint = f"; choose one of its sequences, such as {inside[0]}" if inside else "; make one with extract.py"
            raise LumenError(f"{folder} is no sequence (no sequence.yaml){hint}")
        source = recorded_sequence(paths)
        facts = Sequence.load(source.sequence)
        mask = read_mask(source.mask)
        if mask.shape != (facts.height, facts.width):
            raise LumenError(
                f"{source.mask} is of {mask.shape[1]}x{mask.shape[0]} pixels, the sequence of {facts.width}x"
                f"{facts.height}: extract the sequence again"
            )
        require(bool(mask.any()), f"{source.mask} is black: it leaves nothing to use; extract the sequence again")
        sides = cv2.boundingRect(mask)[2:]
        require(min(sides) >= MIN_SIDE_PX, f"{source.mask} shows only {sides[0]}x{sides[1]} pixels: too few to use")
        pinhole = facts.calibration.pinhole
        if facts.calibration.state != "uncalibrated" and not _is_pinhole(pinhole):
            raise LumenError(f"{source.sequence}: pinhole {pinhole} is not fx, fy, cx, cy, with fx, fy above 0")
        count = len(facts.frames)
        require(count >= MIN_FRAMES, f"{folder} has {count} frames: at least {MIN_FRAMES} are needed")
        return cls(paths, source, facts, mask)


def _is_pinhole(params: list[float] | None) -> bool:
    return params is not None and len(params) == 4 and bool(np.isfinite(params).all()) and min(params[:2]) > 0
