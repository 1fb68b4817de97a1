"""Convert SfM results between COLMAP models, training data, nerfstudio's transforms.json and TUM trajectories."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pycolmap
import tyro

from data_prep.simulation.training_data import is_phantom, write_phantom_training_data
from pipeline.arrays import Float64s
from pipeline.command.bounds import Positive, Settings
from pipeline.command.run_command import run_command
from pipeline.data.depth_files import copy_depth
from pipeline.data.images import write_image
from pipeline.data.jpeg import is_jpeg, without_metadata
from pipeline.data.sequence import Sequence
from pipeline.data.sequence_images import read_own_mask
from pipeline.data.training_data import Bytes, TrainingData
from pipeline.data.training_files import read_mask, read_training_data, write_training_data
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.outputs.files import copy_file, write_bytes
from pipeline.outputs.folders import work_folder
from pipeline.paths import ConversionPaths, SequencePaths, TrainingPaths
from pipeline.report import StageReport
from sfm.colmap.model import (
    frame_number,
    has_frame_numbers,
    model_from_training_data,
    poses_from_model,
    read_model,
    training_data_from_model,
)
from sfm.colmap.writing import write_binary_model
from sfm.output.export import NerfstudioLens, write_nerfstudio, write_tum
from sfm.output.projection_plot import draw_projections

_CHECKED_FRAMES = 12
# Decoding at 1/8 of the size is fast for JPEG and still detects an unreadable file.
_QUICK_DECODING = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
_QUICK_SHRINK = 8
_FULL_DECODING = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_GIVE_FPS = "give the frame rate of the video, such as --fps 30"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertConfig(Settings):
    """Convert an SfM result (COLMAP model or training data) to COLMAP, training data, nerfstudio or TUM format."""

    input: tyro.conf.Positional[Path]
    """Folder with a COLMAP model (or with sparse/0), a sequence with training data in either layout, or, with --to
    training, a phantom."""
    to: Literal["colmap", "training", "nerfstudio", "tum"]
    """Output format: sparse/0 with images and masks; a sequence with colmap/0; transforms.json with images, masks and
    sparse_pc.ply; trajectory.tum."""
    output: Path
    """Output folder, new or empty."""
    pose_direction: Literal["auto", "cam_from_world", "world_from_cam"] = "auto"
    """Direction of the poses in training data; auto detects it by projecting the points."""
    images: Path | None = None
    """Folder of a COLMAP model's images; by default `images` in the input folder or up to two levels above it."""
    mask: Path | None = None
    """Content area of a COLMAP model's images, 255 = tissue; by default `undistorted_mask.bmp` in the same folders."""
    fps: Positive | None = None
    """Frames per second, for the timestamps of a trajectory without sequence.yaml."""
    check: bool = False
    """Write plots of sampled frames with the projected points; green if a view lists the point as an observation."""
    overwrite: bool = False
    """Replace the output folder if a conversion wrote it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.fps is None or math.isfinite(self.fps), f"--fps {self.fps}: choose a finite number")
        require(self.fps is None or self.to == "tum", f"--fps needs --to tum; {self.to} has no timestamps")


def run(config: ConvertConfig) -> list[Path]:
    """Convert. Images are copied without metadata; the pixels of a JPEG do not change.

    Returns:
        The main output file or folder, and the folder of plots if `check` is set.

    Raises:
        LumenError: if the input is neither format, or lacks something that the output needs.
    """
    report = StageReport("convert")
    inputs = (config.input, config.images, config.mask)
    with work_folder(config.output, "convert.py", inputs=inputs, overwrite=config.overwrite) as work:
        write = _conversion(config)
        work.clear()
        paths = ConversionPaths(work.path)
        try:
            with report.timed("write"):
                data = write(paths)
            if config.check:
                with report.timed("check"):
                    _write_check(data, paths)
            report.counts = {
                "views": len(data.frame_index),
                "points": len(data.points),
                "observations": len(data.observation_point),
                "pose_direction": data.direction,
            }
            report.save(paths.report)
            work.publish()
        except LumenError:
            work.discard()
            raise
    final = ConversionPaths(config.output)
    return [final.main(config.to), *([final.check] if config.check else [])]


def _conversion(config: ConvertConfig) -> Callable[[ConversionPaths], TrainingData]:
    """Read the input; return a function that writes the output and returns its data."""
    if is_phantom(config.input):
        _check_phantom_options(config)
        return lambda paths: write_phantom_training_data(config.input, paths.root)
    data = _read(config)
    timestamps_s = _timestamps(config, data) if config.to == "tum" else None
    return lambda paths: _write(config, data, timestamps_s, paths)


def _check_phantom_options(config: ConvertConfig) -> None:
    require(
        config.to == "training",
        f"{config.input} is a phantom: convert it with --to training first, then convert the result with "
        f"--to {config.to}",
    )
    for name, is_given in (
        ("pose_direction", config.pose_direction != "auto"),
        ("images", config.images is not None),
        ("mask", config.mask is not None),
    ):
        require(not is_given, f"--{name} does not apply to phantoms: {config.input} has its own")


def _read(config: ConvertConfig) -> TrainingData:
    require(config.input.is_dir(), f"{config.input} is not a folder")
    if TrainingPaths.find(config.input) is not None:
        for name, value in (("images", config.images), ("mask", config.mask)):
            require(value is None, f"--{name} is for COLMAP models; {config.input} is training data and has its own")
        return read_training_data(config.input, config.pose_direction)
    folder = _model_folder(config.input)
    if folder is None:
        raise LumenError(
            f"{config.input} holds neither training data (motion.yaml) nor a COLMAP model (cameras.bin or cameras.txt)"
        )
    require(config.pose_direction == "auto", "--pose_direction is for training data; COLMAP poses are cam_from_world")
    model = read_model(folder)
    data = _poses(folder, model) if config.to == "tum" and not config.check else _views(config, model)
    logger.info("%s: COLMAP model, %d views, %d points", folder, len(data.frame_index), len(data.points))
    return data


def _poses(folder: Path, model: pycolmap.Reconstruction) -> TrainingData:
    data = poses_from_model(model)
    require(
        has_frame_numbers(data),
        f"{folder}: image names do not give frame numbers: each name needs its own number, such as 00000012.jpg",
    )
    return data


def _views(config: ConvertConfig, model: pycolmap.Reconstruction) -> TrainingData:
    image_folder = _image_folder(config, next(iter(model.images.values())).name)
    found = {image.name: image_folder / image.name for image in model.images.values()}
    frames = sorted(frame_number(name) for name in found)
    # nerfstudio supports distorted lenses; the check's plots assume pinholes.
    pinholes = config.check or config.to != "nerfstudio"
    data = training_data_from_model(model, _mask(config, model), np.array(frames, np.int64), found, pinholes=pinholes)
    require(
        config.to != "training" or len(data.observation_point) > 0,
        f"{config.input}: the model has no points with observations; training data needs them",
    )
    return data


def _around(folder: Path) -> Iterator[Path]:
    """The folder and its two parents: the usual places of a COLMAP model's images and mask."""
    resolved = folder.resolve()
    yield from (resolved, resolved.parent, resolved.parent.parent)


def _image_folder(config: ConvertConfig, name: str) -> Path:
    folders = [config.images] if config.images else [SequencePaths(folder).images for folder in _around(config.input)]
    found = next((folder for folder in folders if (folder / name).exists()), None)
    if found is None and config.to != "tum":
        raise LumenError(f"{config.input}: image {name} is not in {folders[0]}: pass the folder with --images")
    return found or folders[0]


def _mask_file(config: ConvertConfig) -> Path | None:
    """The content area of a COLMAP model's images: --mask, or a mask near the model; None if there is none."""
    if config.mask is not None:
        return config.mask
    candidates = (SequencePaths(folder).mask for folder in _around(config.input))
    return next((path for path in candidates if path.exists()), None)


def _mask(config: ConvertConfig, model: pycolmap.Reconstruction) -> Bytes:
    found = _mask_file(config)
    if found is not None:
        return read_mask(found)
    if config.to == "training":
        raise LumenError(
            f"{config.input}: training data needs the content area of the images (255 = tissue): pass it with --mask"
        )
    camera = next(iter(model.cameras.values()))
    return np.full((camera.height, camera.width), 255, np.uint8)


def _timestamps(config: ConvertConfig, data: TrainingData) -> Float64s:
    """The timestamp of each view: from the sequence, or from the frame rate."""
    if config.fps is not None:
        return data.frame_index / config.fps
    candidates = (SequencePaths(folder).sequence for folder in _around(config.input))
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise LumenError(f"{config.input}: no sequence.yaml gives the timestamps of the frames: {_GIVE_FPS}")
    times_s = {frame.index: frame.timestamp_s for frame in Sequence.load(path).frames}
    unknown = [int(index) for index in data.frame_index if int(index) not in times_s]
    require(not unknown, f"{path} does not list frame {unknown[0] if unknown else ''}: {_GIVE_FPS}")
    return np.array([times_s[int(index)] for index in data.frame_index])


def _write(
    config: ConvertConfig, data: TrainingData, timestamps_s: Float64s | None, paths: ConversionPaths
) -> TrainingData:
    if timestamps_s is not None:
        write_tum(data, timestamps_s, paths.trajectory)
        return data
    lenses = _lenses(config, data) if config.to == "nerfstudio" else []
    masks = [] if config.to == "training" else _write_masks(config, data, paths)
    data = replace(data, image_paths=[_copy_image(data, view, paths) for view in range(len(data.image_paths))])
    if config.to == "colmap":
        write_binary_model(_colmap_model(config, data), paths.model)
    elif config.to == "training":
        _copy_depths(config.input, data, TrainingPaths(paths.root))
        write_training_data(data, paths.root)
    else:
        write_nerfstudio(data, paths.transforms, paths.point_cloud, masks, lenses)
    return data


def _copy_depths(source: Path, data: TrainingData, output: TrainingPaths) -> None:
    """Copy the depth maps without metadata; they share the world frame of the model."""
    paths = TrainingPaths.with_depth(source)
    if paths is None:
        return
    copy_file(paths.depth_scale, output.depth_scale)
    for index in data.frame_index:
        copy_depth(paths.depth(int(index)), output.depth(int(index)), (data.width, data.height))


def _write_masks(config: ConvertConfig, data: TrainingData, paths: ConversionPaths) -> list[Path]:
    """Write the content area and one mask per view, its own if it has one; nothing if the content area is unknown."""
    if TrainingPaths.find(config.input) is None and _mask_file(config) is None:
        return []
    output = SequencePaths(paths.root)
    write_image(output.mask, data.mask)
    masks = [output.frame_mask(int(index)) for index in data.frame_index]
    for image, mask in zip(data.image_paths, masks, strict=True):
        write_image(mask, read_own_mask(SequencePaths.own_mask(image), data.mask))
    return masks


def _lenses(config: ConvertConfig, data: TrainingData) -> list[NerfstudioLens]:
    """The lens of each view of a COLMAP model; empty for training data, whose cameras are pinholes."""
    folder = _model_folder(config.input) if TrainingPaths.find(config.input) is None else None
    if folder is None:
        return []
    model = read_model(folder)
    cameras = {frame_number(image.name): model.cameras[image.camera_id] for image in model.images.values()}
    return [NerfstudioLens.of(cameras[int(index)]) for index in data.frame_index]


def _colmap_model(config: ConvertConfig, data: TrainingData) -> pycolmap.Reconstruction:
    """The input's own model with its observations; without one, a model built from the training data."""
    training = TrainingPaths.find(config.input)
    folder = _model_folder(config.input) if training is None else training.model
    if folder is None or not any(folder.glob("cameras.*")):
        logger.warning("training data lists no image positions: observations are set to the projections of the points")
        return model_from_training_data(data)
    model = read_model(folder)
    for image in model.images.values():
        image.name = SequencePaths(config.output).image(frame_number(image.name)).name
    return model


def _model_folder(folder: Path) -> Path | None:
    candidates = (folder, folder / "sparse" / "0", folder / "sparse")
    return next((path for path in candidates if any(path.glob("cameras.*"))), None)


def _copy_image(data: TrainingData, view: int, paths: ConversionPaths) -> Path:
    """Copy a view's image without metadata, named by its frame index; other formats become JPEG."""
    source = data.image_paths[view]
    target = SequencePaths(paths.root).image(int(data.frame_index[view]))
    with explain_os_errors("read", source):
        content = source.read_bytes()
    # The bytes of a JPEG are copied, so a full decode is unnecessary.
    flags, shrink = (_QUICK_DECODING, _QUICK_SHRINK) if is_jpeg(content) else (_FULL_DECODING, 1)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    if image is None:
        raise LumenError(f"{source} cannot be read as an image")
    expected = (-(-data.height // shrink), -(-data.width // shrink))
    if image.shape[:2] != expected:
        about = f"{image.shape[1] * shrink}x{image.shape[0] * shrink}"
        raise LumenError(f"{source} has about {about} pixels, the mask has {data.width}x{data.height}")
    if not is_jpeg(content):
        write_image(target, image, [cv2.IMWRITE_JPEG_QUALITY, 98])
        return target
    try:
        write_bytes(target, without_metadata(content))
    except ValueError as error:
        raise LumenError(f"{source} cannot be read as an image: {error}") from error
    return target


def _write_check(data: TrainingData, paths: ConversionPaths) -> None:
    for view in np.unique(np.linspace(0, len(data.frame_index) - 1, _CHECKED_FRAMES).astype(int)):
        write_image(paths.check_plot(int(data.frame_index[view])), draw_projections(data, int(view)))


if __name__ == "__main__":
    sys.exit(run_command(ConvertConfig, run))
