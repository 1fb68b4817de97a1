"""COLMAP models: from training data and back, without losing a pose or a track."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.data.training_data import Bytes, Integers, TrainingData
from pipeline.errors import LumenError
from sfm.colmap.files import check_model_files
from sfm.colmap.text import ModelText, image_names

_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """Read a COLMAP model, binary or text.

    Raises:
        LumenError: if there is none, it is cut off or damaged, holds what is not finite, or no image in it has a pose.
    """
    if not any((folder / f"cameras.{suffix}").exists() for suffix in ("bin", "txt")):
        raise LumenError(f"{folder} holds no COLMAP model: no cameras.bin and no cameras.txt")
    texts = check_model_files(folder)
    try:
        model = _read(folder, texts)
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise LumenError(
            f"{folder}: the COLMAP model is cut off or damaged, or its files are of different models "
            f"({str(error).splitlines()[0]}): copy the model again"
        ) from error
    if not model.num_reg_images():
        raise LumenError(f"{folder}: no image of the COLMAP model has a pose")
    if any(text.may_lack_an_end for text in texts.values()) and not _is_consistent(model):
        raise LumenError(
            f"{folder} is cut off or damaged: a file has no newline at its end, and the points of its images are not "
            "those of its points3D.txt: copy the model again"
        )
    _check_numbers(model, folder)
    return model


def _read(folder: Path, texts: Mapping[str, ModelText]) -> pycolmap.Reconstruction:
    if all(text.is_as_written for text in texts.values()):
        model = pycolmap.Reconstruction(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="lumensfm-") as mended:
            for stem, text in texts.items():
                (Path(mended) / f"{stem}.txt").write_text(text.content, encoding="utf-8")
            model = pycolmap.Reconstruction(mended)
    if texts:
        for image_id, name in image_names(texts["images"].content).items():
            model.images[image_id].name = name
    return model


def _is_consistent(model: pycolmap.Reconstruction) -> bool:
    """Whether the images list the observations that the points list."""
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
        # A spherical camera has none.
        focal_px = min((camera.params[index] for index in camera.focal_length_idxs()), default=1.0)
        if not np.isfinite(camera.params).all() or focal_px <= 0:
            raise LumenError(f"{folder}: the focal length of camera {camera.camera_id} is not above 0, or not finite")
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
    """Training data → COLMAP model.

    Training data says which frames see a point, not where; the observations are put where the point projects to. Views
    with the same intrinsics share a PINHOLE camera. An image is named by its file.
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
    selected_index: Integers,
    image_paths: Mapping[str, Path],
    *,
    pinholes: bool = True,
) -> TrainingData:
    """COLMAP model → training data: registered images and all points, in the order of their numbers.

    Args:
        model: of PINHOLE or SIMPLE_PINHOLE cameras, if these are required.
        mask: (H, W) uint8, content area, 255 = tissue.
        selected_index: all frames of the sequence.
        image_paths: the image of each name in the model.
        pinholes: require cameras without distortion; otherwise the intrinsics leave it out.

    Raises:
        LumenError: if a camera has distortion or another size than the mask, or an image's name has no frame number.
    """
    images = sorted(_registered(model), key=lambda image: frame_number(image.name))
    for image, other in pairwise(images):
        if frame_number(image.name) == frame_number(other.name):
            raise LumenError(f"the images {image.name!r} and {other.name!r} have the same number, the frame's index")
    _check_cameras(model, mask, pinholes=pinholes)
    frame_index = np.array([frame_number(image.name) for image in images], np.int64)
    paths = [image_paths[image.name] for image in images]
    return _data(model, images, frame_index, mask, selected_index, paths)


def poses_from_model(model: pycolmap.Reconstruction) -> TrainingData:
    """COLMAP model → its poses and points, whatever its lenses, sizes and names.

    Where each image's name has a number of its own, that is the frame's index; elsewhere it is the place of the image
    among all, in natural order (`has_frame_numbers`). Intrinsics leave the distortion out, the mask is of the first
    camera's size and all 255, and the images are named relative to their folder.
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
    """Whether `frame_index` is what the images' names say, rather than their order."""
    names = [str(path) for path in data.image_paths]
    return _frame_numbers(names) == data.frame_index.tolist()


def _registered(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    return [model.images[image_id] for image_id in model.reg_image_ids()]


def _frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The number of each name; None if one has none or two have the same."""
    try:
        numbers = [frame_number(name) for name in names]
    except LumenError:
        return None
    return numbers if len(set(numbers)) == len(numbers) else None


def _natural_order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]


def _views(point: pycolmap.Point3D, view_of_image: Mapping[int, int]) -> list[int]:
    """The views that see a point, of those that have a pose."""
    return [view_of_image[element.image_id] for element in point.track.elements if element.image_id in view_of_image]


def _data(
    model: pycolmap.Reconstruction,
    images: Sequence[pycolmap.Image],
    frame_index: Integers,
    mask: Bytes,
    selected_index: Integers,
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
    """The frame's index in the video, the last number in its image's name.

    Raises:
        LumenError: if there is none, or it does not fit 64 bits.
    """
    numbers = re.findall(r"[0-9]+", Path(name).stem)
    if not numbers:
        raise LumenError(f"the image {name!r} has no number in its name to tell its place in the video")
    number = int(numbers[-1])
    if number > np.iinfo(np.int64).max:
        raise LumenError(f"the number in the name of the image {name!r} is too large for the index of a frame")
    return number


def _add_points(model: pycolmap.Reconstruction, data: TrainingData, place_in_view: npt.NDArray[np.int64]) -> None:
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
                f"camera {camera.camera_id} is of {camera.width}x{camera.height} pixels, the mask of {size}: give the "
                "mask of these images"
            )


def _pinhole(camera: pycolmap.Camera) -> list[float]:
    if not camera.focal_length_idxs():
        # A spherical camera has no focal length; this one looks ahead with a right angle.
        return [camera.width / 2, camera.width / 2, camera.width / 2, camera.height / 2]
    return [camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y]
