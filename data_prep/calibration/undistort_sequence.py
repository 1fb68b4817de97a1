"""Undistort an extracted sequence in place, once its camera is known.

The recorded frames are kept in `recorded/` and are the source of the undistorted ones, so that this can be interrupted
and repeated, also with a better camera.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import pycolmap
from cv2.typing import MatLike as Mask

from data_prep.calibration.files import write_calibration
from data_prep.calibration.undistort import Undistortion, plan_undistortion
from data_prep.selection.plan import describe_calibration
from pipeline.data.images import write_image
from pipeline.data.sequence import ContentArea, Sequence
from pipeline.data.sequence_images import read_frame, read_frame_mask
from pipeline.data.training_files import read_mask
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.outputs.files import link_or_copy, write_bytes
from pipeline.outputs.folders import joined_output
from pipeline.outputs.owned_files import remove_own
from pipeline.paths import SequencePaths
from pipeline.progress import progress

logger = logging.getLogger(__name__)

_WORKERS = 2
# COLMAP models → the equal or more general model of OpenCV.
_OPENCV_MODELS = {
    "SIMPLE_PINHOLE": "PINHOLE",
    "PINHOLE": "PINHOLE",
    "SIMPLE_RADIAL": "OPENCV",
    "RADIAL": "OPENCV",
    "OPENCV": "OPENCV",
    "FULL_OPENCV": "FULL_OPENCV",
    "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "OPENCV_FISHEYE": "OPENCV_FISHEYE",
}


def undistort_sequence(
    paths: SequencePaths, camera: pycolmap.Camera, max_field_of_view_deg: float = 150.0, jpeg_quality: int = 95
) -> Undistortion:
    """Replace the recorded frames and masks with undistorted ones; the recorded ones move to `recorded/`.

    `sequence.yaml` says "uncalibrated" until the end. If interrupted, call it again with the same or another camera. An
    unreadable frame is left unchanged. With a camera without distortion, all images keep their recorded bytes.

    Args:
        paths: a sequence extracted without a calibration.
        camera: camera of the recorded frames, of their size, in COLMAP's convention; a model that OpenCV supports.
        max_field_of_view_deg: see `plan_undistortion`.
        jpeg_quality: quality of the undistorted frames, 1..100.

    Returns:
        The undistortion applied to the frames.

    Raises:
        LumenError: if the sequence was extracted with a calibration, a mask is damaged, a frame or mask has another
            size, the camera is valid nowhere in the content area or unsupported by OpenCV, or a write fails.
        ValueError: if the camera's size differs from the content area's.
    """
    recorded = paths.as_recorded
    sequence = Sequence.load(recorded.sequence)
    require(
        sequence.calibration.state == "uncalibrated",
        f"{paths.root} is undistorted and its recorded frames are not kept: extract it again without a calibration",
    )
    content = read_mask(recorded.mask)
    undistortion = plan_undistortion(camera, content, max_field_of_view_deg)
    opencv_camera = _to_opencv_model(camera)
    with joined_output(paths.root):
        _write_undistorted(paths, sequence, content, undistortion, jpeg_quality)
        write_calibration(paths.calibration, opencv_camera, {"origin": "self"})
        _as_undistorted(sequence, camera, undistortion, content).save(paths.sequence)
    return undistortion


def _write_undistorted(
    paths: SequencePaths, sequence: Sequence, content: Mask, undistortion: Undistortion, jpeg_quality: int
) -> None:
    recorded = _keep_recorded(paths)
    # A partly undistorted sequence must not claim to be undistorted, not even with the camera of an earlier call.
    _copy(recorded.sequence, paths.sequence)
    if undistortion.is_identity:
        for file in _files(recorded):
            _copy(recorded.root / file, paths.root / file)
    else:
        writer = _FrameWriter(recorded, paths, content, undistortion, jpeg_quality)
        writer.write([frame.index for frame in sequence.frames])
        write_image(paths.mask, undistortion.mask(content))


def _as_undistorted(sequence: Sequence, camera: pycolmap.Camera, undistortion: Undistortion, content: Mask) -> Sequence:
    """The sequence's facts after undistortion with a camera estimated from its frames."""
    return replace(
        sequence,
        calibration=replace(describe_calibration(None, camera, undistortion), origin="self"),
        content_area=ContentArea.of_mask(undistortion.mask(content), sequence.content_area.margin_px),
    )


@dataclass(frozen=True)
class _FrameWriter:
    """Writes undistorted frames and their masks.

    Attributes:
        recorded, paths: source and target.
        content: (H, W) uint8, the content area of the recorded frames, 255 inside.
        undistortion: applied to each frame; pixels without content become black.
        jpeg_quality: 1..100.
    """

    recorded: SequencePaths
    paths: SequencePaths
    content: Mask
    undistortion: Undistortion
    jpeg_quality: int

    def write(self, indices: list[int]) -> None:
        """Write the frames with these indices; unreadable frames are skipped and counted in the log."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            frames = progress(pool.map(self._write_frame, indices), "undistorting frames", total=len(indices))
            unreadable = list(frames).count(False)
        if unreadable:
            logger.warning(
                "%d of %d frames in %s cannot be read and are left unchanged",
                *(unreadable, len(indices), self.recorded.images),
            )

    def _write_frame(self, index: int) -> bool:
        """Write a frame and its mask; False if it cannot be read."""
        image = read_frame(self.recorded, index, (self.undistortion.camera.width, self.undistortion.camera.height))
        if image is None:
            return False
        undistorted = self.undistortion.image(image)
        write_image(self.paths.image(index), undistorted, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])
        if self.recorded.frame_mask(index).exists():
            usable = self.undistortion.mask(read_frame_mask(self.recorded, index, self.content))
            write_image(self.paths.frame_mask(index), usable, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return True


def _keep_recorded(paths: SequencePaths) -> SequencePaths:
    """`recorded/`, created if needed; it is complete once it has its `sequence.yaml`, which is written last."""
    recorded = paths.recorded
    if recorded.sequence.exists():
        return recorded
    # Files of an interrupted call.
    remove_own(recorded.root)
    for file in _files(paths):
        source, target = paths.root / file, recorded.root / file
        if not (target.exists() and target.samefile(source)):
            link_or_copy(source, target)
    return recorded


def _files(paths: SequencePaths) -> Iterator[Path]:
    """Files that an extraction writes for a sequence, relative to its folder; `sequence.yaml` is the last."""
    indices = sorted(frame.index for frame in Sequence.load(paths.sequence).frames)
    frames = [file for index in indices for file in (paths.image(index), paths.frame_mask(index))]
    for file in (paths.mask, *frames, paths.sequence):
        if file.is_file():
            yield file.relative_to(paths.root)


def _copy(source: Path, target: Path) -> None:
    """Copy `source` to `target`; never as a link, because the next write to `target` would change `source`."""
    with explain_os_errors("read", source):
        if target.exists() and target.samefile(source):
            return
        data = source.read_bytes()
    write_bytes(target, data)


def _to_opencv_model(camera: pycolmap.Camera) -> pycolmap.Camera:
    """Convert to an equal camera with one of OpenCV's models.

    Raises:
        LumenError: if no model fits.
    """
    model = _OPENCV_MODELS.get(camera.model_name)
    if model is None:
        raise LumenError(f"OpenCV does not support {camera.model_name}: choose one of {', '.join(_OPENCV_MODELS)}")
    if model == camera.model_name:
        return camera
    focal_px, x, y, *coefficients = camera.params.tolist()
    padding = [] if model == "PINHOLE" else [0.0] * (4 - len(coefficients))
    params = [focal_px, focal_px, x, y, *coefficients, *padding]
    return pycolmap.Camera(model=model, width=camera.width, height=camera.height, params=params)
