"""SfM results between formats: COLMAP models, training data, nerfstudio's transforms.json, TUM trajectories."""

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
import numpy.typing as npt
import pycolmap
import tyro

from data_prep.simulation.training_data import is_phantom, write_phantom_training_data
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
# An eighth of the size, which costs JPEG next to nothing and still shows that it can be read.
_QUICK_DECODING = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
_QUICK_SHRINK = 8
_FULL_DECODING = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_GIVE_FPS = "give the frames a second of the video, such as --fps 30"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertConfig(Settings):
    """Convert an SfM result: a COLMAP model or training data into either, into nerfstudio's or into TUM's format."""

    input: tyro.conf.Positional[Path]
    """Folder with a COLMAP model (or with sparse/0), a sequence's folder with training data in either layout, or a
    phantom's, for --to training."""
    to: Literal["colmap", "training", "nerfstudio", "tum"]
    """What to write: sparse/0, images and masks; a sequence with colmap/0; transforms.json with images, masks and
    sparse_pc.ply; trajectory.tum."""
    output: Path
    """Folder to make."""
    pose_direction: Literal["auto", "cam_from_world", "world_from_cam"] = "auto"
    """How poses stand in training data; auto finds out by projecting the points."""
    images: Path | None = None
    """Folder of a COLMAP model's images; by default `images` in the input's folder or up to two above it."""
    mask: Path | None = None
    """Content area of a COLMAP model's images, 255 = tissue; by default `undistorted_mask.bmp` in the same places."""
    fps: Positive | None = None
    """Frames a second, for the times of a trajectory where there is no sequence.yaml."""
    check: bool = False
    """Write pictures of sampled frames with the points on them: green where a listed view sees one."""
    overwrite: bool = False
    """Replace the output folder if a conversion made it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.fps is None or math.isfinite(self.fps), f"--fps {self.fps}: choose a finite number")
        require(self.fps is None or self.to == "tum", f"--fps is for --to tum; {self.to} has no times")


def run(config: ConvertConfig) -> list[Path]:
    """Convert; images are copied without their metadata, JPEGs without a change to their pixels.

    Returns:
        The main file or folder of the result, and the folder of the check's pictures.

    Raises:
        LumenError: if the input holds neither, or lacks something that the output needs.
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
    """Read the input; what is returned writes the output and tells what is in it."""
    if is_phantom(config.input):
        _check_phantom_options(config)
        return lambda paths: write_phantom_training_data(config.input, paths.root)
    data = _read(config)
    timestamps_s = _timestamps(config, data) if config.to == "tum" else None
    return lambda paths: _write(config, data, timestamps_s, paths)


def _check_phantom_options(config: ConvertConfig) -> None:
    require(
        config.to == "training",
        f"{config.input} is a phantom, which becomes training data: convert it with --to training first, and what "
        f"comes of it with --to {config.to}",
    )
    for name, is_given in (
        ("pose_direction", config.pose_direction != "auto"),
        ("images", config.images is not None),
        ("mask", config.mask is not None),
    ):
        require(not is_given, f"--{name} is not for phantoms: {config.input} knows its own")


def _read(config: ConvertConfig) -> TrainingData:
    require(config.input.is_dir(), f"{config.input} is not a folder")
    if TrainingPaths.find(config.input) is not None:
        for name, value in (("images", config.images), ("mask", config.mask)):
            require(value is None, f"--{name} is for COLMAP models; {config.input} is training data, which has its own")
        return read_training_data(config.input, config.pose_direction)
    folder = _model_folder(config.input)
    if folder is None:
        raise LumenError(
            f"{config.input} holds neither training data (motion.yaml) nor a COLMAP model (cameras.bin or cameras.txt)"
        )
    require(config.pose_direction == "auto", "--pose_direction is for training data; a COLMAP model is cam_from_world")
    model = read_model(folder)
    data = _poses(folder, model) if config.to == "tum" and not config.check else _views(config, model)
    logger.info("%s: COLMAP model, %d views, %d points", folder, len(data.frame_index), len(data.points))
    return data


def _poses(folder: Path, model: pycolmap.Reconstruction) -> TrainingData:
    data = poses_from_model(model)
    require(
        has_frame_numbers(data),
        f"{folder}: the names of its images do not say which frames they are: each needs a number of its own, such as "
        "00000012.jpg",
    )
    return data


def _views(config: ConvertConfig, model: pycolmap.Reconstruction) -> TrainingData:
    image_folder = _image_folder(config, next(iter(model.images.values())).name)
    found = {image.name: image_folder / image.name for image in model.images.values()}
    frames = sorted(frame_number(name) for name in found)
    # nerfstudio has lenses with distortion; the pictures of the check are drawn with pinholes.
    pinholes = config.check or config.to != "nerfstudio"
    data = training_data_from_model(model, _mask(config, model), np.array(frames, np.int64), found, pinholes=pinholes)
    require(
        config.to != "training" or len(data.observation_point) > 0,
        f"{config.input}: the model has no points that its images see; training data needs them",
    )
    return data


def _around(folder: Path) -> Iterator[Path]:
    """The folder and the two above it: where a COLMAP model's images and mask are usually kept."""
    resolved = folder.resolve()
    yield from (resolved, resolved.parent, resolved.parent.parent)


def _image_folder(config: ConvertConfig, name: str) -> Path:
    folders = [config.images] if config.images else [SequencePaths(folder).images for folder in _around(config.input)]
    found = next((folder for folder in folders if (folder / name).exists()), None)
    if found is None and config.to != "tum":
        raise LumenError(f"{config.input}: its image {name} is not in {folders[0]}: give the folder with --images")
    return found or folders[0]


def _mask_file(config: ConvertConfig) -> Path | None:
    """The content area of a COLMAP model's images: given, or where images are looked for; None if there is none."""
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
            f"{config.input}: training data needs the content area of the images (255 = tissue): give it with --mask"
        )
    camera = next(iter(model.cameras.values()))
    return np.full((camera.height, camera.width), 255, np.uint8)


def _timestamps(config: ConvertConfig, data: TrainingData) -> npt.NDArray[np.float64]:
    """When each view was shown: from the sequence, or by frames a second."""
    if config.fps is not None:
        return data.frame_index / config.fps
    candidates = (SequencePaths(folder).sequence for folder in _around(config.input))
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise LumenError(f"{config.input}: there is no sequence.yaml to tell when a frame was shown: {_GIVE_FPS}")
    times_s = {frame.index: frame.timestamp_s for frame in Sequence.load(path).frames}
    unknown = [int(index) for index in data.frame_index if int(index) not in times_s]
    require(not unknown, f"{path} does not know frame {unknown[0] if unknown else ''}: {_GIVE_FPS}")
    return np.array([times_s[int(index)] for index in data.frame_index])


def _write(
    config: ConvertConfig, data: TrainingData, timestamps_s: npt.NDArray[np.float64] | None, paths: ConversionPaths
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
    """Copy the depth maps of a model in whose world they are, without metadata."""
    paths = TrainingPaths.with_depth(source)
    if paths is None:
        return
    copy_file(paths.depth_scale, output.depth_scale)
    for index in data.frame_index:
        copy_depth(paths.depth(int(index)), output.depth(int(index)), (data.width, data.height))


def _write_masks(config: ConvertConfig, data: TrainingData, paths: ConversionPaths) -> list[Path]:
    """Write the content area and a mask for each view, its own where it has one; none where the area is not known."""
    if TrainingPaths.find(config.input) is None and _mask_file(config) is None:
        return []
    output = SequencePaths(paths.root)
    write_image(output.mask, data.mask)
    masks = [output.frame_mask(int(index)) for index in data.frame_index]
    for image, mask in zip(data.image_paths, masks, strict=True):
        write_image(mask, read_own_mask(SequencePaths.own_mask(image), data.mask))
    return masks


def _lenses(config: ConvertConfig, data: TrainingData) -> list[NerfstudioLens]:
    """The lens of each view of a COLMAP model; none of training data, whose views are of pinholes."""
    folder = _model_folder(config.input) if TrainingPaths.find(config.input) is None else None
    if folder is None:
        return []
    model = read_model(folder)
    cameras = {frame_number(image.name): model.cameras[image.camera_id] for image in model.images.values()}
    return [NerfstudioLens.of(cameras[int(index)]) for index in data.frame_index]


def _colmap_model(config: ConvertConfig, data: TrainingData) -> pycolmap.Reconstruction:
    """The model that the input is or that lies beside it, as it was observed; otherwise one of the training data."""
    training = TrainingPaths.find(config.input)
    folder = _model_folder(config.input) if training is None else training.model
    if folder is None or not any(folder.glob("cameras.*")):
        logger.warning("training data does not say where a point was seen: observations are where points project to")
        return model_from_training_data(data)
    model = read_model(folder)
    for image in model.images.values():
        image.name = SequencePaths(config.output).image(frame_number(image.name)).name
    return model


def _model_folder(folder: Path) -> Path | None:
    candidates = (folder, folder / "sparse" / "0", folder / "sparse")
    return next((path for path in candidates if any(path.glob("cameras.*"))), None)


def _copy_image(data: TrainingData, view: int, paths: ConversionPaths) -> Path:
    """Copy a view's image without its metadata under the name of its frame; other kinds become JPEG."""
    source = data.image_paths[view]
    target = SequencePaths(paths.root).image(int(data.frame_index[view]))
    with explain_os_errors("read", source):
        content = source.read_bytes()
    # A JPEG is copied as it is, so that it need not be decoded in full.
    flags, shrink = (_QUICK_DECODING, _QUICK_SHRINK) if is_jpeg(content) else (_FULL_DECODING, 1)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    if image is None:
        raise LumenError(f"{source} cannot be read as an image")
    expected = (-(-data.height // shrink), -(-data.width // shrink))
    if image.shape[:2] != expected:
        about = f"{image.shape[1] * shrink}x{image.shape[0] * shrink}"
        raise LumenError(f"{source} is of about {about} pixels, the mask of {data.width}x{data.height}")
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
        write_image(paths.check_picture(int(data.frame_index[view])), draw_projections(data, int(view)))


if __name__ == "__main__":
    sys.exit(run_command(ConvertConfig, run))
