"""Lossless conversion between COLMAP models and training data."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Ints
from pipeline.data.training_data import Bytes, TrainingData
from pipeline.errors import LumenError
from sfm.colmap.files import check_model_files
from sfm.colmap.text import ModelText, image_names

_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """Read a COLMAP model, binary or text.

    Raises:
        LumenError: if the folder holds no model, or the model is truncated or damaged, has values that are not finite,
            or has no registered image.
    """
    if not any((folder / f"cameras.{suffix}").exists() for suffix in ("bin", "txt")):
        raise LumenError(f"{folder} holds no COLMAP model: it has neither cameras.bin nor cameras.txt")
    texts = check_model_files(folder)
    try:
        model = _read(folder, texts)
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise LumenError(
            f"{folder}: the COLMAP model is truncated or damaged, or its files belong to different models "
            f"({str(error).splitlines()[0]}): copy the model again"
        ) from error
    if not model.num_reg_images():
        raise LumenError(f"{folder}: the COLMAP model has no registered image")
    if any(text.may_lack_an_end for text in texts.values()) and not _is_consistent(model):
        raise LumenError(
            f"{folder} is truncated or damaged: a file does not end with a newline, and the observations in images.txt "
            "are not those in points3D.txt: copy the model again"
        )
    _check_numbers(model, folder)
    return model


def _read(folder: Path, texts: Mapping[str, ModelText]) -> pycolmap.Reconstruction:
    if all(text.is_as_written for text in texts.values()):
        model = pycolmap.Reconstruction(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="lumensfm-") as repaired:
            for stem, text in texts.items():
                (Path(repaired) / f"{stem}.txt").write_text(text.content, encoding="utf-8")
            model = pycolmap.Reconstruction(repaired)
    if texts:
        for image_id, name in image_names(texts["images"].content).items():
            model.images[image_id].name = name
    return model


def _is_consistent(model: pycolmap.Reconstruction) -> bool:
    """Whether images and points list the same observations."""
    in_images = {
        (image_id, place): point.point3D_id
        for image_id, image in model.images.items()
        for place, point in enumerate(image.points2D)
        if point.has_point3D()
    }
    in_points = {
        (element.image_id, element.point2D_idx): point_id
        for point_id, point in model.points3D.items()
        for element in point.track.elements
    }
    return in_images == in_points


def _check_numbers(model: pycolmap.Reconstruction, folder: Path) -> None:
    for camera in model.cameras.values():
        # A spherical camera has no focal length.
        focal_px = min((camera.params[index] for index in camera.focal_length_idxs()), default=1.0)
        if not np.isfinite(camera.params).all() or focal_px <= 0:
            raise LumenError(f"{folder}: the focal length of camera {camera.camera_id} is not positive and finite")
    for image_id, image in model.images.items():
        try:
            name = image.name
        except UnicodeDecodeError as error:
            raise LumenError(f"{folder}: the name of image {image_id} is not UTF-8: rename the image") from error
        if image.has_pose and not np.isfinite(image.cam_from_world().matrix()).all():
            raise LumenError(f"{folder}: the pose of image {name!r} is not finite")
    bad = next((number for number, point in model.points3D.items() if not np.isfinite(point.xyz).all()), None)
    if bad is not None:
        raise LumenError(f"{folder}: point {bad} is not finite")


def model_from_training_data(data: TrainingData) -> pycolmap.Reconstruction:
    """Convert training data to a COLMAP model.

    Training data lists which frames observe a point, but no pixels; each observation is placed at the projection of its
    point. Views with equal intrinsics share a PINHOLE camera. Images are named after their files.
    """
    model = pycolmap.Reconstruction()
    distinct, camera_of_view = np.unique(data.pinhole, axis=0, return_inverse=True)
    for number, params in enumerate(distinct, start=1):
        model.add_camera_with_trivial_rig(
            pycolmap.Camera(
                camera_id=number, model="PINHOLE", width=data.width, height=data.height, params=params.tolist()
            )
        )
    pixels, _ = data.project(data.observation_point, data.observation_view)
    by_view = np.argsort(data.observation_view, kind="stable")
    starts = np.searchsorted(data.observation_view[by_view], np.arange(len(data.frame_index) + 1))
    place_in_view = np.empty(len(by_view), np.int64)
    place_in_view[by_view] = np.arange(len(by_view)) - starts[data.observation_view[by_view]]
    for view, path in enumerate(data.image_paths):
        image = pycolmap.Image(
            name=path.name,
            camera_id=int(camera_of_view[view]) + 1,
            image_id=view + 1,
            keypoints=pixels[by_view[starts[view] : starts[view + 1]]],
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(data.cam_from_world[view]))
    _add_points(model, data, place_in_view)
    return model


def training_data_from_model(
    model: pycolmap.Reconstruction,
    mask: Bytes,
    selected_index: Ints,
    image_paths: Mapping[str, Path],
    *,
    pinholes: bool = True,
) -> TrainingData:
    """Convert a COLMAP model to training data: registered images by frame number, and all points by ID.

    Args:
        model: COLMAP model.
        mask: (H, W) uint8 content area, 255 = tissue.
        selected_index: indices of all frames of the sequence.
        image_paths: image name in the model → file.
        pinholes: require PINHOLE or SIMPLE_PINHOLE cameras; otherwise distortion is ignored.

    Raises:
        LumenError: if a camera has distortion or not the size of the mask, or an image name has no number or that of
            another image.
    """
    images = sorted(_registered(model), key=lambda image: frame_number(image.name))
    for image, other in pairwise(images):
        if frame_number(image.name) == frame_number(other.name):
            raise LumenError(f"the images {image.name!r} and {other.name!r} have the same frame number")
    _check_cameras(model, mask, pinholes=pinholes)
    frame_index = np.array([frame_number(image.name) for image in images], np.int64)
    paths = [image_paths[image.name] for image in images]
    return _data(model, images, frame_index, mask, selected_index, paths)


def poses_from_model(model: pycolmap.Reconstruction) -> TrainingData:
    """Read poses and points of a COLMAP model with any camera models, image sizes and image names.

    The frame index is the number in the image name if every name has a unique one; otherwise it is the rank of the
    image in natural order (see `has_frame_numbers`). The intrinsics omit distortion, the mask has the size of the first
    camera and is 255 everywhere, and image paths are relative to the image folder.
    """
    names = sorted((image.name for image in model.images.values()), key=_natural_order)
    numbers = _frame_numbers(names) or list(range(len(names)))
    index_of_name = dict(zip(names, numbers, strict=True))
    images = sorted(_registered(model), key=lambda image: index_of_name[image.name])
    camera = model.cameras[images[0].camera_id]
    frame_index = np.array([index_of_name[image.name] for image in images], np.int64)
    mask = np.full((camera.height, camera.width), 255, np.uint8)
    return _data(model, images, frame_index, mask, np.unique(numbers), [Path(image.name) for image in images])


def has_frame_numbers(data: TrainingData) -> bool:
    """Whether `frame_index` holds the numbers in the image names rather than ranks."""
    names = [str(path) for path in data.image_paths]
    return _frame_numbers(names) == data.frame_index.tolist()


def _registered(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    return [model.images[image_id] for image_id in model.reg_image_ids()]


def _frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The number in each name; None if a name has none or two names share one."""
    try:
        numbers = [frame_number(name) for name in names]
    except LumenError:
        return None
    return numbers if len(set(numbers)) == len(numbers) else None


def _natural_order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]


def _views(point: pycolmap.Point3D, view_of_image: Mapping[int, int]) -> list[int]:
    """The registered views that observe a point."""
    return [view_of_image[element.image_id] for element in point.track.elements if element.image_id in view_of_image]


def _data(
    model: pycolmap.Reconstruction,
    images: Sequence[pycolmap.Image],
    frame_index: Ints,
    mask: Bytes,
    selected_index: Ints,
    image_paths: Sequence[Path],
) -> TrainingData:
    view_of_image = {image.image_id: view for view, image in enumerate(images)}
    points = [model.points3D[point_id] for point_id in sorted(model.points3D)]
    seen = [np.unique(_views(point, view_of_image)).astype(np.int64) for point in points]
    return TrainingData(
        frame_index=frame_index,
        pinhole=np.array([_pinhole(model.cameras[image.camera_id]) for image in images]),
        cam_from_world=np.array([image.cam_from_world().matrix() for image in images]),
        points=np.array([point.xyz for point in points]).reshape(-1, 3),
        colors=np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        observation_point=np.repeat(np.arange(len(points)), [len(views) for views in seen]),
        observation_view=np.concatenate([np.zeros(0, np.int64), *seen]),
        mask=mask,
        selected_index=selected_index,
        image_paths=image_paths,
    )


def frame_number(name: str) -> int:
    """Frame index in the video: the last number in the image name.

    Raises:
        LumenError: if there is no number, or it does not fit 64 bits.
    """
    numbers = re.findall(r"[0-9]+", Path(name).stem)
    if not numbers:
        raise LumenError(f"the image name {name!r} has no number to use as frame index")
    number = int(numbers[-1])
    if number > np.iinfo(np.int64).max:
        raise LumenError(f"the number in the image name {name!r} is too large for a frame index")
    return number


def _add_points(model: pycolmap.Reconstruction, data: TrainingData, place_in_view: Ints) -> None:
    bounds = np.searchsorted(data.observation_point, np.arange(len(data.points) + 1))
    colors = np.zeros((len(data.points), 3), np.uint8) if data.colors is None else data.colors
    image_ids = (data.observation_view + 1).tolist()
    places = place_in_view.tolist()
    for point, (xyz, color) in enumerate(zip(data.points, colors, strict=True)):
        elements = range(bounds[point], bounds[point + 1])
        track = pycolmap.Track([pycolmap.TrackElement(image_ids[i], places[i]) for i in elements])
        model.add_point3D(xyz, track, color)


def _check_cameras(model: pycolmap.Reconstruction, mask: Bytes, *, pinholes: bool) -> None:
    for camera in model.cameras.values():
        if pinholes and camera.model_name not in _PINHOLES:
            raise LumenError(
                f"camera {camera.camera_id} is {camera.model_name}, not a pinhole camera: undistort the model "
                "first (colmap image_undistorter)"
            )
        if (camera.height, camera.width) != mask.shape:
            size = f"{mask.shape[1]}x{mask.shape[0]}"
            raise LumenError(
                f"camera {camera.camera_id} has {camera.width}x{camera.height} pixels, but the mask {size}: give the "
                "mask of these images"
            )


def _pinhole(camera: pycolmap.Camera) -> list[float]:
    if not camera.focal_length_idxs():
        # A spherical camera has no focal length; substitute a pinhole camera with a 90 degree field of view.
        return [camera.width / 2, camera.width / 2, camera.width / 2, camera.height / 2]
    return [camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y]
