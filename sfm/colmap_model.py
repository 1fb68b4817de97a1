"""COLMAP models: from training data and back, without losing a pose or a track."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.errors import LumenError
from pipeline.training_data import Bytes, Integers, TrainingData
from sfm.colmap_files import check_model_files

_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """Read a COLMAP model, binary or text.

    Raises:
        LumenError: if there is none, it is cut off or damaged, holds what is not finite, or no image in it has a pose.
    """
    if not any((folder / f"cameras.{suffix}").exists() for suffix in ("bin", "txt")):
        raise LumenError(f"{folder} holds no COLMAP model: no cameras.bin and no cameras.txt")
    check_model_files(folder)
    try:
        model = pycolmap.Reconstruction(folder)
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise LumenError(f"{folder}: the COLMAP model cannot be read: {str(error).splitlines()[0]}") from error
    if not model.num_reg_images():
        raise LumenError(f"{folder}: no image of the COLMAP model has a pose")
    _check_numbers(model, folder)
    return model


def _check_numbers(model: pycolmap.Reconstruction, folder: Path) -> None:
    for camera in model.cameras.values():
        focal_px = min(camera.params[index] for index in camera.focal_length_idxs())
        if not np.isfinite(camera.params).all() or focal_px <= 0:
            raise LumenError(f"{folder}: the focal length of camera {camera.camera_id} is not above 0, or not finite")
    for image_id in model.reg_image_ids():
        if not np.isfinite(model.images[image_id].cam_from_world().matrix()).all():
            raise LumenError(f"{folder}: the pose of image {model.images[image_id].name!r} is not finite")
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
    model: pycolmap.Reconstruction, mask: Bytes, selected_index: Integers, image_paths: Mapping[str, Path]
) -> TrainingData:
    """COLMAP model → training data: registered images and all points, in the order of their numbers.

    Args:
        model: PINHOLE or SIMPLE_PINHOLE cameras.
        mask: (H, W) uint8, content area, 255 = tissue.
        selected_index: all frames of the sequence.
        image_paths: the image of each name in the model.

    Raises:
        LumenError: if a camera has distortion or another size than the mask, or an image's name has no frame number.
    """
    images = sorted(
        (model.images[image_id] for image_id in model.reg_image_ids()), key=lambda im: frame_number(im.name)
    )
    for image, other in pairwise(images):
        if frame_number(image.name) == frame_number(other.name):
            raise LumenError(f"the images {image.name!r} and {other.name!r} have the same number, the frame's index")
    _check_cameras(model, mask)
    view_of_image = {image.image_id: view for view, image in enumerate(images)}
    points = [model.points3D[point_id] for point_id in sorted(model.points3D)]
    seen = [
        np.unique([view_of_image[element.image_id] for element in point.track.elements]).astype(np.int64)
        for point in points
    ]
    return TrainingData(
        frame_index=np.array([frame_number(image.name) for image in images], np.int64),
        pinhole=np.array([_pinhole(model.cameras[image.camera_id]) for image in images]),
        cam_from_world=np.array([image.cam_from_world().matrix() for image in images]),
        points=np.array([point.xyz for point in points]).reshape(-1, 3),
        colors=np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        observation_point=np.repeat(np.arange(len(points)), [len(views) for views in seen]),
        observation_view=np.concatenate([np.zeros(0, np.int64), *seen]),
        mask=mask,
        selected_index=selected_index,
        image_paths=[image_paths[image.name] for image in images],
    )


def frame_number(name: str) -> int:
    """The frame's index in the video, the last number in its image's name.

    Raises:
        LumenError: if there is none.
    """
    numbers = re.findall(r"\d+", Path(name).stem)
    if not numbers:
        raise LumenError(f"the image {name!r} has no number in its name to tell its place in the video")
    return int(numbers[-1])


def _add_points(model: pycolmap.Reconstruction, data: TrainingData, place_in_view: npt.NDArray[np.int64]) -> None:
    bounds = np.searchsorted(data.observation_point, np.arange(len(data.points) + 1))
    colors = np.zeros((len(data.points), 3), np.uint8) if data.colors is None else data.colors
    image_ids = (data.observation_view + 1).tolist()
    places = place_in_view.tolist()
    for point, (xyz, color) in enumerate(zip(data.points, colors, strict=True)):
        elements = range(bounds[point], bounds[point + 1])
        track = pycolmap.Track([pycolmap.TrackElement(image_ids[i], places[i]) for i in elements])
        model.add_point3D(xyz, track, color)


def _check_cameras(model: pycolmap.Reconstruction, mask: Bytes) -> None:
    for camera in model.cameras.values():
        if camera.model_name not in _PINHOLES:
            raise LumenError(
                f"camera {camera.camera_id} is {camera.model_name}; training data knows no distortion: undistort the "
                "model first (colmap image_undistorter)"
            )
        if (camera.height, camera.width) != mask.shape:
            size = f"{mask.shape[1]}x{mask.shape[0]}"
            raise LumenError(
                f"camera {camera.camera_id} is of {camera.width}x{camera.height} pixels, the mask of {size}: give the "
                "mask of these images"
            )


def _pinhole(camera: pycolmap.Camera) -> list[float]:
    return [camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y]
