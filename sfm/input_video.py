"""Input of the first SfM: the frames and content area of a sequence, and its camera if calibrated."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from pipeline.conventions import WORKING_SIZE_PX
from pipeline.data.sequence import Sequence
from pipeline.data.tracks import MIN_FRAMES
from pipeline.data.training_data import Bytes
from pipeline.data.training_files import read_mask
from pipeline.errors import LumenError, require
from pipeline.paths import AnyPath, RunPaths, SequencePaths, TrainingPaths
from sfm.mapping.config import MapConfig
from sfm.mapping.triangulation import Limits

MIN_SIDE_PX = 32
# Tracking error at the working resolution.
_ERROR_PX = 1.5


@dataclass(frozen=True)
class InputVideo:
    """A sequence to reconstruct.

    Attributes:
        paths: files of the sequence.
        source: files of the frames to read: the frames as recorded if the camera is to be estimated.
        facts: `sequence.yaml` of the source.
        mask: (H, W) uint8 content area of the source frames, 255 = tissue.
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
    def content_side(self) -> int:
        """Longer side of the content area, px."""
        return int(max(cv2.boundingRect(self.mask)[2:]))

    @property
    def default_error_px(self) -> float:
        """Expected error of a well-tracked point, px."""
        return _ERROR_PX * max(1.0, self.content_side / WORKING_SIZE_PX)

    def limits(self, config: MapConfig) -> Limits:
        """Acceptance limits of points; the reprojection error defaults to `default_error_px`.

        Raises:
            LumenError: if the sequence has fewer than `min_views` frames.
        """
        count = len(self.facts.frames)
        require(config.min_views <= count, f"--min_views {config.min_views}: the sequence has only {count} frames")
        error_px = self.default_error_px if config.max_error_px is None else config.max_error_px
        return Limits(error_px, config.min_views, config.min_angle_deg)

    @property
    def content_box(self) -> tuple[int, int, int, int]:
        left, top, width, height = cv2.boundingRect(self.mask)
        return left, top, left + width, top + height

    @classmethod
    def read(cls, folder: AnyPath, *, as_recorded: bool = True) -> "InputVideo":
        """Read the metadata and content area of a sequence.

        Args:
            folder: folder of the sequence.
            as_recorded: if the sequence was undistorted with an estimated camera, use the frames as recorded.

        Raises:
            LumenError: if the folder is not a sequence, its content area is missing, empty or has the wrong size, or
                there are fewer than `MIN_FRAMES` frames.
        """
        paths = SequencePaths(Path(folder))
        _require_sequence(paths)
        source = paths.as_recorded if as_recorded else paths
        facts = Sequence.load(source.sequence)
        mask = _read_content_area(source, facts)
        pinhole = facts.calibration.pinhole
        if facts.calibration.state != "uncalibrated" and not _is_pinhole(pinhole):
            raise LumenError(f"{source.sequence}: pinhole must be fx, fy, cx, cy with fx, fy above 0, not {pinhole}")
        count = len(facts.frames)
        require(count >= MIN_FRAMES, f"{folder} has {count} frames: at least {MIN_FRAMES} are needed")
        return cls(paths, source, facts, mask)


def _require_sequence(paths: SequencePaths) -> None:
    """Check that a folder is a sequence.

    Raises:
        LumenError: otherwise; the message suggests what to give instead.
    """
    folder = paths.root
    if folder.is_file():
        raise LumenError(
            f"{folder} is a file, not a sequence: extract a sequence with python data_prep/extract.py {folder}"
        )
    require(folder.is_dir(), f"{folder} is not a folder")
    around = _sequence_around(folder)
    if around is not None:
        raise LumenError(f"{folder} is part of a sequence: give the sequence itself, {around}")
    if paths.sequence.exists():
        return
    inside = [found.root for found in RunPaths(folder).sequences()]
    training = TrainingPaths.find(folder)
    if inside:
        hint = f"; choose one of its sequences, such as {inside[0]}"
    elif training is not None:
        hint = (
            "; it holds training data, which already have poses: to reconstruct them again, extract a sequence from "
            f"their images with python data_prep/extract.py {training.image(0).parent}"
        )
    else:
        hint = "; extract one with data_prep/extract.py"
    raise LumenError(f"{folder} is not a sequence (no sequence.yaml){hint}")


def _read_content_area(source: SequencePaths, facts: Sequence) -> Bytes:
    path, size = source.mask, f"{facts.width}x{facts.height}"
    if not path.exists():
        raise LumenError(
            f"{path} is missing: extract the sequence again, or save the content area of its frames there ({size} "
            "pixels, 255 = tissue)"
        )
    mask = read_mask(path)
    if mask.shape != (facts.height, facts.width):
        mask_size = f"{mask.shape[1]}x{mask.shape[0]}"
        raise LumenError(f"{path} has {mask_size} pixels, but the sequence {size}: extract the sequence again")
    require(bool(mask.any()), f"{path} is black, so no pixel is usable: extract the sequence again")
    sides = cv2.boundingRect(mask)[2:]
    require(
        min(sides) >= MIN_SIDE_PX,
        f"the content area in {path} has only {sides[0]}x{sides[1]} pixels: each side needs {MIN_SIDE_PX}",
    )
    return mask


def _sequence_around(folder: Path) -> Path | None:
    """The sequence that contains a folder, such as `images/`, `recorded/` or `colmap/0/`; None if there is none."""
    place = folder.resolve()
    for parent in (place.parent, place.parent.parent):
        paths = SequencePaths(parent)
        models = TrainingPaths(parent).model.parent
        parts = (paths.images, paths.frame_masks, paths.recorded.root, models)
        if paths.sequence.exists() and any(place.is_relative_to(part) for part in parts):
            return parent
    return None


def _is_pinhole(params: list[float] | None) -> bool:
    return params is not None and len(params) == 4 and bool(np.isfinite(params).all()) and min(params[:2]) > 0
