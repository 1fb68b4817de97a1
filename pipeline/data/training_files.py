"""Read and write SfM training data (`pipeline.data.training_data`) without a Python loop over points."""

import logging
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from pipeline.arrays import Bytes, Float64s, Ints
from pipeline.conventions import invert_poses, quaternions_from_rotations, rotations_from_quaternions
from pipeline.data.images import read_pixels, write_image
from pipeline.data.pose_direction import choose_direction, explained_shares
from pipeline.data.training_data import PoseDirection, TrainingData
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import atomic_write, read_yaml, write_bytes
from pipeline.paths import AnyPath, SequencePaths, TrainingPaths

# Files have quaternions with at least 5 digits.
_LENGTH_TOLERANCE = 1e-3

logger = logging.getLogger(__name__)


def read_training_data(root: AnyPath, pose_direction: Literal["auto"] | PoseDirection = "auto") -> TrainingData:
    """Read the training data in a sequence's folder, in either layout.

    Args:
        root: the sequence's folder.
        pose_direction: direction of the poses in `motion.yaml`; "auto" detects and logs it.

    Raises:
        LumenError: if there is no training data, a file is missing, damaged or inconsistent with the others, or the
            pose direction is ambiguous.
    """
    root = Path(root)
    paths = TrainingPaths.find(root)
    if paths is None:
        raise LumenError(f"{root} has no training data: {TrainingPaths(root).motion.relative_to(root)} is missing")
    mask = read_mask(paths.mask)
    _check_image_size(paths, mask)
    frame_index, poses, pinhole, stated = _read_views(paths)
    points, colors = read_point_cloud(paths.structure)
    observation = _read_observations(paths.views_per_point, len(points), frame_index)
    shares = explained_shares(poses, points, pinhole, observation, mask)
    if pose_direction == "auto":
        pose_direction = choose_direction(shares, str(paths.motion), stated)
    elif shares[pose_direction] < max(shares.values()):
        logger.warning(
            "%s: read as %s, although the other direction explains more observations", paths.motion, pose_direction
        )
    logger.info(
        "%s: layout %d, %d views, %d points, %d observations, poses are %s (%.2f %% of observations inside the mask)",
        *(root, paths.layout, len(frame_index), len(points), len(observation[0]), pose_direction),
        100 * shares[pose_direction],
    )
    return TrainingData(
        frame_index=frame_index,
        pinhole=pinhole,
        cam_from_world=poses if pose_direction == "cam_from_world" else invert_poses(poses),
        points=points,
        colors=colors,
        observation_point=observation[0],
        observation_view=observation[1],
        mask=mask,
        selected_index=_read_selected(paths, frame_index),
        image_paths=[paths.image(int(index)) for index in frame_index],
        direction=pose_direction,
    )


def write_training_data(data: TrainingData, root: AnyPath, number: int = 0, models: str = "colmap") -> list[Path]:
    """Write layout 2 with poses as cam_from_world into a sequence's folder. Images are not copied.

    Args:
        data: the training data.
        root: the sequence's folder.
        number: the number of the model.
        models: the folder for models inside `root`; set it if the caller moves the models later.

    Returns:
        The files written. `motion.yaml`, which marks the data as complete, is the last.
    """
    root = Path(root)
    paths = TrainingPaths(root, 2, number, models)
    ones = np.full(len(data.points), -1, np.int64)
    starts = np.searchsorted(data.observation_point, np.arange(len(data.points)))
    views = np.insert(data.frame_index[data.observation_view], starts, ones)
    write_image(SequencePaths(root).mask, data.mask)
    write_image(paths.mask, data.mask)
    _write_numbers(paths.intrinsics, data.pinhole.ravel())
    _write_numbers(paths.selected, data.selected_index)
    _write_numbers(paths.visible, data.frame_index)
    _write_numbers(paths.views_per_point, views)
    write_point_cloud(paths.structure, data.points, data.colors)
    write_bytes(paths.motion, _format_motion(data.cam_from_world).encode())
    files = (paths.intrinsics, paths.selected, paths.visible, paths.views_per_point, paths.structure, paths.mask)
    return [*files, paths.motion]


def read_mask(path: AnyPath) -> Bytes:
    """Read a mask from any image: (H, W) uint8, 255 where the image is brighter than 127, 0 elsewhere.

    Raises:
        LumenError: if the file is missing or not an image.
    """
    path = Path(path)
    with explain_os_errors("read", path):
        data = np.frombuffer(path.read_bytes(), np.uint8)
    mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if mask is None:
        raise LumenError(f"{path} is not an image")
    return np.where(mask > 127, 255, 0).astype(np.uint8)


def write_point_cloud(path: AnyPath, points: Float64s, colors: Bytes | None) -> None:
    """Write (P, 3) points, optionally with (P, 3) colours as red, green, blue, as PLY.

    Raises:
        LumenError: if it cannot be written.
    """
    fields = [(axis, "f8") for axis in "xyz"]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.zeros(len(points), fields)
    for column, axis in enumerate("xyz"):
        vertices[axis] = points[:, column]
    for column, name in enumerate(("red", "green", "blue") if colors is not None else ()):
        vertices[name] = colors[:, column]  # type: ignore[index]
    with atomic_write(Path(path)) as partial:
        PlyData([PlyElement.describe(vertices, "vertex")]).write(str(partial))


def _check_image_size(paths: TrainingPaths, mask: Bytes) -> None:
    """Compare the size of the mask with the first frame, if that can be read."""
    first = next(iter(sorted(paths.image(0).parent.glob("*.jpg"))), None)
    image = None if first is None else read_pixels(first, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is not None and image.shape != mask.shape:
        raise LumenError(
            f"{paths.mask} has {mask.shape[1]}x{mask.shape[0]} pixels, {first} has {image.shape[1]}x{image.shape[0]}"
        )


def _read_views(paths: TrainingPaths) -> tuple[Ints, Float64s, Float64s, PoseDirection | None]:
    """Frame index, pose in the direction of the file, and intrinsics of each view, sorted; the stated direction."""
    frame_index = _read_indices(paths.visible)
    if len(np.unique(frame_index)) < len(frame_index):
        raise LumenError(f"{paths.visible} lists a frame twice")
    poses, stated = _read_motion(paths.motion)
    if len(poses) != len(frame_index):
        raise LumenError(f"{paths.motion} has {len(poses)} poses, {paths.visible} {len(frame_index)} frames")
    pinhole = _read_intrinsics(paths.intrinsics, len(frame_index))
    order = np.argsort(frame_index)
    return frame_index[order], poses[order], pinhole[order], stated


def _read_numbers(path: Path, kind: type) -> Any:
    with explain_os_errors("read", path):
        text = path.read_text(errors="replace")
    try:
        return np.array(text.split(), kind)
    except (ValueError, OverflowError) as error:
        raise LumenError(f"{path} contains something that is not a number: {error}") from error


def _read_indices(path: Path) -> Ints:
    indices: Ints = _read_numbers(path, np.int64)
    if not len(indices):
        raise LumenError(f"{path} is empty")
    return indices


def _read_selected(paths: TrainingPaths, frame_index: Ints) -> Ints:
    """All frames that are listed, registered, or have an image. Existing lists may lack a frame."""
    listed = _read_indices(paths.selected) if paths.selected.exists() else frame_index
    folder = paths.image(0).parent
    there = [int(image.stem) for image in folder.glob("*.jpg") if image.stem.isdigit()]
    return np.unique(np.concatenate([listed, frame_index, np.array(there, np.int64)]))


def _read_intrinsics(path: Path, view_count: int) -> Float64s:
    """Intrinsics (V, 4) from 3 (f, cx, cy) or 4 (fx, fy, cx, cy) numbers per view, for all views or for the first."""
    numbers: Float64s = _read_numbers(path, np.float64)
    for width in (3, 4):
        if len(numbers) in (width, width * view_count):
            rows = np.broadcast_to(numbers.reshape(-1, width), (view_count, width))
            pinhole = rows if width == 4 else rows[:, [0, 0, 1, 2]]
            if not np.isfinite(pinhole).all() or (pinhole[:, :2] <= 0).any():
                raise LumenError(f"{path} has a focal length that is not positive, or a number that is not finite")
            return np.ascontiguousarray(pinhole)
    raise LumenError(
        f"{path} has {len(numbers)} numbers for {view_count} views: expected 3 or 4 per view, or for one view"
    )


def _read_motion(path: Path) -> tuple[Float64s, PoseDirection | None]:
    """Poses (V, 3, 4) in the direction of the file, and that direction if the file states it."""
    content = read_yaml(path)
    poses = content.get("poses[]") if isinstance(content, dict) else None
    if not isinstance(poses, dict) or not poses:
        raise LumenError(f"{path} has no poses[]: it is truncated, or not a motion.yaml")
    try:
        numbers = [poses[f"poses[{i}]"] for i in range(len(poses))]
        position = np.array([[pose["position"][axis] for axis in "xyz"] for pose in numbers], np.float64)
        quaternion_wxyz = np.array([[pose["orientation"][axis] for axis in "wxyz"] for pose in numbers], np.float64)
    except KeyError as error:
        raise LumenError(f"{path} is truncated or damaged: a pose lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise LumenError(f"{path} is truncated or damaged: a pose lacks position and orientation") from error
    norm = np.linalg.norm(quaternion_wxyz, axis=1, keepdims=True)
    bad = ~np.isfinite(position).all(axis=1) | ~(np.abs(norm[:, 0] - 1) < _LENGTH_TOLERANCE)
    if bad.any():
        raise LumenError(
            f"{path}: pose {int(np.flatnonzero(bad)[0])} is not finite, or its quaternion does not have length 1"
        )
    poses = np.concatenate([rotations_from_quaternions(quaternion_wxyz / norm), position[..., None]], axis=2)
    return poses, _stated_direction(content)


def _stated_direction(motion: dict[str, Any]) -> PoseDirection | None:
    header = motion.get("header")
    stated = header.get("frame_id") if isinstance(header, dict) else None
    return next((direction for direction in get_args(PoseDirection) if direction == stated), None)


def read_point_cloud(path: AnyPath) -> tuple[Float64s, Bytes | None]:
    """Read the points (P, 3) of a PLY file, and their colours (P, 3) as red, green, blue if it has any.

    Raises:
        LumenError: if it cannot be read, is empty or not a point cloud, or a point is not finite.
    """
    path = Path(path)
    with explain_os_errors("read", path):
        try:
            vertices = PlyData.read(str(path))["vertex"].data
            points = np.column_stack([vertices[axis] for axis in "xyz"]).astype(np.float64)
        except (PlyParseError, KeyError, ValueError, EOFError) as error:
            raise LumenError(f"{path} is not a PLY point cloud: {error}") from error
    if not len(points):
        raise LumenError(f"{path} has no points")
    if not np.isfinite(points).all():
        raise LumenError(f"{path}: point {int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])} is not finite")
    names = ("red", "green", "blue")
    if not set(names) <= set(vertices.dtype.names):
        return points, None
    return points, np.column_stack([vertices[name] for name in names]).astype(np.uint8)


def _read_observations(path: Path, point_count: int, frame_index: Ints) -> tuple[Ints, Ints]:
    """The point and the view of each observation. A point may have no observation."""
    numbers: Ints = _read_numbers(path, np.int64)
    is_start = numbers == -1
    if not len(numbers) or not is_start[0] or int(is_start.sum()) != point_count:
        raise LumenError(f"{path} lists {int(is_start.sum())} points, but the point cloud has {point_count}")
    point = (np.cumsum(is_start) - 1)[~is_start]
    frames = numbers[~is_start]
    order = np.argsort(frame_index)
    place = np.minimum(np.searchsorted(frame_index[order], frames), len(order) - 1)
    view = order[place]
    unknown = frame_index[view] != frames
    if unknown.any():
        raise LumenError(f"{path} lists frame {int(frames[unknown][0])}, which is not registered")
    if not len(point):
        raise LumenError(f"{path} lists no view for any point")
    return point.astype(np.int64), view.astype(np.int64)


def _write_numbers(path: Path, numbers: Any) -> None:
    write_bytes(path, "".join(f"{value!r}\n" for value in numbers.tolist()).encode())


def _format_motion(cam_from_world: Float64s) -> str:
    """The content of `motion.yaml` in the format of PCL's and ROS's tools. Numbers have full precision."""
    lines = ["header:", "  seq: 0", "  stamp: 0.000000000", "  frame_id: cam_from_world", "poses[]:"]
    quaternions = quaternions_from_rotations(cam_from_world[:, :, :3])
    for i, (pose, (w, x, y, z)) in enumerate(zip(cam_from_world, quaternions.tolist(), strict=True)):
        px, py, pz = pose[:, 3].tolist()
        lines += [
            f"  poses[{i}]:",
            *("    position:", f"      x: {px!r}", f"      y: {py!r}", f"      z: {pz!r}"),
            *("    orientation:", f"      x: {x!r}", f"      y: {y!r}", f"      z: {z!r}", f"      w: {w!r}"),
        ]
    return "\n".join(lines) + "\n"
