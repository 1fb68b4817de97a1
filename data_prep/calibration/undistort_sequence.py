"""A sequence whose camera became known after its extraction: its frames turned into those of a pinhole, in place.

The frames as recorded are kept in `recorded/`, and all is made from them, so that this may be killed and repeated, and
done again with a better camera.
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
from pipeline.outputs.record import remove_own
from pipeline.paths import SequencePaths
from pipeline.progress import progress

logger = logging.getLogger(__name__)

_WORKERS = 2
# COLMAP's models → the model of OpenCV's that is the same, or of which they are a special case.
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
    """Put undistorted frames and masks in the place of the recorded ones, which move to `recorded/`.

    Until the end `sequence.yaml` says "uncalibrated"; killed before that, the same call makes the same of it, and
    another camera may follow. A frame that cannot be read is left as it is. With a camera that has no distortion, all
    images stay the bytes that were recorded.

    Args:
        paths: a sequence that was extracted without a calibration.
        camera: of the frames as recorded, of their size, in COLMAP's convention; a model that OpenCV knows too.
        max_field_of_view_deg: see `plan_undistortion`.
        jpeg_quality: of the undistorted frames, 1..100.

    Returns:
        What was done to the frames.

    Raises:
        LumenError: if the sequence was extracted with a calibration, a mask is damaged, a frame or mask of another
            size, the camera valid nowhere in the content area or no model of OpenCV's, or something cannot be written.
        ValueError: if the camera has another size than the content area.
    """
    recorded = paths.as_recorded
    sequence = Sequence.load(recorded.sequence)
    require(
        sequence.calibration.state == "uncalibrated",
        f"{paths.root} is undistorted, and its frames as recorded are not kept: extract it again without a calibration",
    )
    content = read_mask(recorded.mask)
    undistortion = plan_undistortion(camera, content, max_field_of_view_deg)
    opencv_camera = _as_opencv_has_it(camera)
    with joined_output(paths.root):
        _write_undistorted(paths, sequence, content, undistortion, jpeg_quality)
        write_calibration(paths.calibration, opencv_camera, {"origin": "self"})
        _as_undistorted(sequence, camera, undistortion, content).save(paths.sequence)
    return undistortion


def _write_undistorted(
    paths: SequencePaths, sequence: Sequence, content: Mask, undistortion: Undistortion, jpeg_quality: int
) -> None:
    recorded = _keep_recorded(paths)
    # A half-done mixture must not be said to be undistorted, not even with the camera of an earlier call.
    _copy(recorded.sequence, paths.sequence)
    if undistortion.is_identity:
        for file in _files(recorded):
            _copy(recorded.root / file, paths.root / file)
    else:
        writer = _FrameWriter(recorded, paths, content, undistortion, jpeg_quality)
        writer.write([frame.index for frame in sequence.frames])
        write_image(paths.mask, undistortion.mask(content))


def _as_undistorted(sequence: Sequence, camera: pycolmap.Camera, undistortion: Undistortion, content: Mask) -> Sequence:
    """The facts of a sequence whose frames, of this content area, are undistorted with a camera estimated from them."""
    return replace(
        sequence,
        calibration=replace(describe_calibration(None, camera, undistortion), origin="self"),
        content_area=ContentArea.of_mask(undistortion.mask(content), sequence.content_area.margin_px),
    )


@dataclass(frozen=True)
class _FrameWriter:
    """Writes undistorted frames and their masks.

    Attributes:
        recorded, paths: where frames come from, and where they go.
        content: (H, W) uint8, the content area of the recorded frames, 255 inside.
        undistortion: applied to each frame; what it shows from outside the content is black.
        jpeg_quality: 1..100.
    """

    recorded: SequencePaths
    paths: SequencePaths
    content: Mask
    undistortion: Undistortion
    jpeg_quality: int

    def write(self, indices: list[int]) -> None:
        """Write the frames with these indices, but for those that cannot be read, which the log counts."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            frames = progress(pool.map(self._write_frame, indices), "undistorting frames", total=len(indices))
            unreadable = list(frames).count(False)
        if unreadable:
            logger.warning(
                "%d of %d frames in %s cannot be read; they are left as they are",
                *(unreadable, len(indices), self.recorded.images),
            )

    def _write_frame(self, index: int) -> bool:
        """Whether the frame can be read."""
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
    """`recorded/`, made first if it is not there: whole when it has its `sequence.yaml`, which is written last."""
    recorded = paths.recorded
    if recorded.sequence.exists():
        return recorded
    # What a killed call has left there.
    remove_own(recorded.root)
    for file in _files(paths):
        source, target = paths.root / file, recorded.root / file
        if not (target.exists() and target.samefile(source)):
            link_or_copy(source, target)
    return recorded


def _files(paths: SequencePaths) -> Iterator[Path]:
    """What an extraction writes of a sequence, relative to its folder; `sequence.yaml` is the last."""
    indices = sorted(frame.index for frame in Sequence.load(paths.sequence).frames)
    frames = [file for index in indices for file in (paths.image(index), paths.frame_mask(index))]
    for file in (paths.mask, *frames, paths.sequence):
        if file.is_file():
            yield file.relative_to(paths.root)


def _copy(source: Path, target: Path) -> None:
    """Make `target` hold what `source` does; never by a link, which the next write of `target` could go through."""
    with explain_os_errors("read", source):
        if target.exists() and target.samefile(source):
            return
        data = source.read_bytes()
    write_bytes(target, data)


def _as_opencv_has_it(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The same camera as one of OpenCV's models.

    Raises:
        LumenError: if there is none.
    """
    model = _OPENCV_MODELS.get(camera.model_name)
    if model is None:
        raise LumenError(f"OpenCV has no {camera.model_name} camera: choose one of {', '.join(_OPENCV_MODELS)}")
    if model == camera.model_name:
        return camera
    focal_px, x, y, *coefficients = camera.params.tolist()
    padding = [] if model == "PINHOLE" else [0.0] * (4 - len(coefficients))
    params = [focal_px, focal_px, x, y, *coefficients, *padding]
    return pycolmap.Camera(model=model, width=camera.width, height=camera.height, params=params)
