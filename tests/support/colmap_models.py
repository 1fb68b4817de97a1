"""COLMAP text models of known poses, like those written by scripts and other programs."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.conventions import quaternions_from_rotations
from pipeline.data.training_data import TrainingData
from scenes import scene

PINHOLE = "PINHOLE 160 120 90 91 80.5 60.25"
# A camera for each of COLMAP's models with distortion or another projection than pinhole.
LENSES = {
    "SIMPLE_RADIAL": "160 120 90 80.5 60.25 0.1",
    "RADIAL": "160 120 90 80.5 60.25 0.1 0.01",
    "OPENCV": "160 120 90 91 80.5 60.25 0.1 0.01 0.002 0.003",
    "OPENCV_FISHEYE": "160 120 90 91 80.5 60.25 0.1 0.01 0.002 0.003",
    "FULL_OPENCV": "160 120 90 91 80.5 60.25 0.1 0.01 0.002 0.003 0.1 0.01 0.001 0.002",
    "SIMPLE_RADIAL_FISHEYE": "160 120 90 80.5 60.25 0.1",
    "RADIAL_FISHEYE": "160 120 90 80.5 60.25 0.1 0.01",
    "FOV": "160 120 90 91 80.5 60.25 0.2",
    "THIN_PRISM_FISHEYE": "160 120 90 91 80.5 60.25 0.1 0.01 0.002 0.003 0.1 0.01 0.001 0.002",
    "SIMPLE_FISHEYE": "160 120 90 80.5 60.25",
    "EQUIRECTANGULAR": "160 120 160 120",
}


def image_lines(
    data: TrainingData, names: Sequence[str] | None = None, cameras: Sequence[int] | None = None
) -> list[str]:
    """The line of each image in images.txt, without a newline."""
    quaternions = quaternions_from_rotations(data.cam_from_world[:, :, :3])
    names = names or [path.name for path in data.image_paths]
    cameras = cameras or [1] * len(names)
    return [
        " ".join([str(number), *map(repr, (*quaternion, *pose[:, 3].tolist())), str(camera), name])
        for number, (quaternion, pose, camera, name) in enumerate(
            zip(quaternions.tolist(), data.cam_from_world, cameras, names, strict=True), start=1
        )
    ]


def write_known_poses(
    folder: Path,
    cameras: Sequence[str] = (PINHOLE,),
    names: Sequence[str] | None = None,
    camera_of_image: Sequence[int] | None = None,
    data: TrainingData | None = None,
) -> TrainingData:
    """Write the poses of a scene without points: empty lines of 2D points, an empty points3D.txt, no comments."""
    folder.mkdir(parents=True, exist_ok=True)
    data = data or scene()
    lines = image_lines(data, names, camera_of_image)
    (folder / "cameras.txt").write_text("".join(f"{number} {line}\n" for number, line in enumerate(cameras, start=1)))
    (folder / "images.txt").write_text("".join(f"{line}\n\n" for line in lines))
    (folder / "points3D.txt").write_text("")
    return data
