"""Export of trajectories and cameras to TUM and nerfstudio formats."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Float64s
from pipeline.conventions import invert_poses, quaternions_from_rotations
from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import write_point_cloud
from pipeline.errors import LumenError, require
from pipeline.outputs.files import write_bytes, write_json

_GREY = 128
# COLMAP camera model → nerfstudio camera model and the names of its distortion parameters.
_NERFSTUDIO_LENSES = {
    "SIMPLE_PINHOLE": ("OPENCV", ()),
    "PINHOLE": ("OPENCV", ()),
    "SIMPLE_RADIAL": ("OPENCV", ("k1",)),
    "RADIAL": ("OPENCV", ("k1", "k2")),
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "SIMPLE_FISHEYE": ("OPENCV_FISHEYE", ()),
    "FISHEYE": ("OPENCV_FISHEYE", ()),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1",)),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}
_NERFSTUDIO_DISTORTION = {"OPENCV": ("k1", "k2", "p1", "p2"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}


@dataclass(frozen=True)
class NerfstudioLens:
    """Camera model and distortion as nerfstudio defines them.

    Attributes:
        model: OPENCV or OPENCV_FISHEYE.
        distortion: distortion coefficients by nerfstudio's names.
    """

    model: str = "OPENCV"
    distortion: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(_NERFSTUDIO_DISTORTION["OPENCV"], 0.0)
    )

    @classmethod
    def of(cls, camera: pycolmap.Camera) -> "NerfstudioLens":
        """Convert a COLMAP camera.

        Raises:
            LumenError: if nerfstudio does not support the camera model.
        """
        if camera.model_name not in _NERFSTUDIO_LENSES:
            raise LumenError(
                f"camera {camera.camera_id} is {camera.model_name}, which nerfstudio does not support: undistort the "
                "model first (colmap image_undistorter)"
            )
        model, names = _NERFSTUDIO_LENSES[camera.model_name]
        values = [float(camera.params[index]) for index in camera.extra_params_idxs()]
        return cls(model, dict.fromkeys(_NERFSTUDIO_DISTORTION[model], 0.0) | dict(zip(names, values, strict=True)))


def write_tum(data: TrainingData, timestamps_s: Float64s, path: Path) -> None:
    """Write a TUM trajectory: one line `timestamp tx ty tz qx qy qz qw` per view, camera-to-world.

    Args:
        data: poses of V views.
        timestamps_s: (V,) timestamp of each view, s.
        path: text file to write.
    """
    world_from_cam = invert_poses(data.cam_from_world)
    quaternion_xyzw = quaternions_from_rotations(world_from_cam[:, :, :3])[:, [1, 2, 3, 0]]
    rows = np.column_stack([world_from_cam[:, :, 3], quaternion_xyzw]).tolist()
    lines = [
        f"{time_s:.6f} " + " ".join(map(repr, row)) for time_s, row in zip(timestamps_s.tolist(), rows, strict=True)
    ]
    write_bytes(path, ("# timestamp tx ty tz qx qy qz qw (world_from_cam)\n" + "\n".join(lines) + "\n").encode())


def write_nerfstudio(
    data: TrainingData, path: Path, cloud: Path, masks: Sequence[Path], lenses: Sequence[NerfstudioLens] = ()
) -> None:
    """Write nerfstudio's `transforms.json`: camera-to-world, camera axes x right, y up, z back (OpenGL).

    Pixel coordinates are COLMAP's: the centre of the first pixel is (0.5, 0.5). File paths are relative to `path`.

    Args:
        data: cameras, points and images of V views.
        path: JSON file to write.
        cloud: PLY file of the points, for methods that initialize from them; not written if there are no points.
        masks: mask of each view, 255 = use; empty for no masks.
        lenses: camera model of each view; empty for pinhole cameras.

    Raises:
        LumenError: if some cameras are fisheyes and others are not.
    """
    lenses = lenses or [NerfstudioLens()] * len(data.frame_index)
    models = sorted({lens.model for lens in lenses})
    require(len(models) == 1, f"nerfstudio needs one camera model for all images, not {' and '.join(models)}")
    # nerfstudio reads per-image distortion only if no shared one is given.
    is_shared = all(lens == lenses[0] for lens in lenses)
    world_from_cam = np.tile(np.eye(4), (len(data.frame_index), 1, 1))
    world_from_cam[:, :3] = invert_poses(data.cam_from_world)
    transforms = world_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {
            "file_path": os.path.relpath(image, path.parent),
            **dict(zip(("fl_x", "fl_y", "cx", "cy"), intrinsics, strict=True)),
            **({} if is_shared else lens.distortion),
            "w": data.width,
            "h": data.height,
            "transform_matrix": matrix,
        }
        for image, intrinsics, lens, matrix in zip(
            data.image_paths, data.pinhole.tolist(), lenses, transforms.tolist(), strict=True
        )
    ]
    for frame, mask in zip(frames, masks, strict=bool(masks)):
        frame["mask_path"] = os.path.relpath(mask, path.parent)
    head: dict[str, object] = {"camera_model": models[0], **(lenses[0].distortion if is_shared else {})}
    if len(data.points):
        # nerfstudio reads the colours of a point cloud without checking that there are any.
        colors = np.full((len(data.points), 3), _GREY, np.uint8) if data.colors is None else data.colors
        write_point_cloud(cloud, data.points, colors)
        head["ply_file_path"] = os.path.relpath(cloud, path.parent)
    write_json(path, {**head, "frames": frames})
