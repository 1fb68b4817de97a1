"""Camera paths and cameras in the formats of other tools."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.conventions import invert_poses, quaternions_from_rotations
from pipeline.files import write_bytes, write_json
from pipeline.training_data import TrainingData
from pipeline.training_files import write_point_cloud

_GREY = 128


def write_tum(data: TrainingData, timestamps_s: npt.NDArray[np.float64], path: Path) -> None:
    """Write a TUM trajectory: a line `timestamp tx ty tz qx qy qz qw` for each view, camera-to-world.

    Args:
        data: its poses, (V, 3, 4).
        timestamps_s: (V,) when each view was shown.
        path: the text file.
    """
    world_from_cam = invert_poses(data.cam_from_world)
    quaternion_xyzw = quaternions_from_rotations(world_from_cam[:, :, :3])[:, [1, 2, 3, 0]]
    rows = np.column_stack([world_from_cam[:, :, 3], quaternion_xyzw]).tolist()
    lines = [
        f"{time_s:.6f} " + " ".join(map(repr, row)) for time_s, row in zip(timestamps_s.tolist(), rows, strict=True)
    ]
    write_bytes(path, ("# timestamp tx ty tz qx qy qz qw (world_from_cam)\n" + "\n".join(lines) + "\n").encode())


def write_nerfstudio(data: TrainingData, path: Path, cloud: Path, masks: Sequence[Path]) -> None:
    """Write nerfstudio's `transforms.json`: camera-to-world, camera axes x right, y up, z back (OpenGL's).

    nerfstudio keeps COLMAP's pixels: the centre of the first one is (0.5, 0.5). File paths are relative to `path`.

    Args:
        data: its cameras, points and images.
        path: the JSON file.
        cloud: where to write the points as PLY, for methods that begin with them; in the same world.
        masks: of each view, 255 = use; empty for none.
    """
    # nerfstudio takes the colours of a cloud without asking whether it has any.
    colors = np.full((len(data.points), 3), _GREY, np.uint8) if data.colors is None else data.colors
    write_point_cloud(cloud, data.points, colors)
    world_from_cam = np.tile(np.eye(4), (len(data.frame_index), 1, 1))
    world_from_cam[:, :3] = invert_poses(data.cam_from_world)
    transforms = world_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {
            "file_path": os.path.relpath(image, path.parent),
            **dict(zip(("fl_x", "fl_y", "cx", "cy"), intrinsics, strict=True)),
            "w": data.width,
            "h": data.height,
            "transform_matrix": matrix,
        }
        for image, intrinsics, matrix in zip(data.image_paths, data.pinhole.tolist(), transforms.tolist(), strict=True)
    ]
    for frame, mask in zip(frames, masks, strict=bool(masks)):
        frame["mask_path"] = os.path.relpath(mask, path.parent)
    undistorted = dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)
    head = {"camera_model": "OPENCV", **undistorted, "ply_file_path": os.path.relpath(cloud, path.parent)}
    write_json(path, {**head, "frames": frames})
