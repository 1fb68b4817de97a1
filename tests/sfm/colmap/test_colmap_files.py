"""A truncated COLMAP model is detected before COLMAP reads it, which may hang."""

import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from pipeline.errors import LumenError
from sfm.colmap.files import check_model_files, is_whole
from sfm.colmap.model import read_model

NAMES = ("cameras", "images", "points3D", "rigs", "frames")


@pytest.fixture(scope="module")
def model() -> pycolmap.Reconstruction:
    """A rig of two cameras, a single camera, and an image without points."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 2, 2
    options.num_points3D = 4
    options.num_points2D_without_point3D = 1
    found = pycolmap.synthesize_dataset(options)
    camera = pycolmap.Camera.create_from_model_name(90, "OPENCV_FISHEYE", 300.0, 640, 480)
    found.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(name="alone.jpg", camera_id=90, image_id=90, keypoints=np.zeros((0, 2)))
    found.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
    return found


@pytest.fixture
def binary(model: pycolmap.Reconstruction, tmp_path: Path) -> Path:
    model.write_binary(tmp_path)
    return tmp_path


def test_a_model_written_by_pycolmap_is_complete(model: pycolmap.Reconstruction, binary: Path, tmp_path: Path) -> None:
    check_model_files(binary)
    text = tmp_path / "text"
    text.mkdir()
    model.write_text(text)
    check_model_files(text)
    assert read_model(text).num_reg_images() == read_model(binary).num_reg_images() == model.num_reg_images()


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_or_extended_binary_file_is_named(binary: Path, name: str) -> None:
    path = binary / f"{name}.bin"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert not is_whole(binary), length
    path.write_bytes(content + b"\0")
    with pytest.raises(LumenError, match=f"{name}.bin is truncated or damaged"):
        read_model(binary)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_text_file_is_named(model: pycolmap.Reconstruction, tmp_path: Path, name: str) -> None:
    model.write_text(tmp_path)
    path = tmp_path / f"{name}.txt"
    lines = path.read_text().splitlines(keepends=True)
    # The line of points of the last image may be empty, and its absence loses nothing.
    fewer = lines[:-2] if name == "images" else lines[:-1]
    for text in ("".join(fewer), "".join(lines)[:-3]):
        path.write_text(text)
        with pytest.raises(LumenError, match=f"{name}.txt is truncated or damaged"):
            read_model(tmp_path)


def test_an_older_model_without_rigs_and_frames_is_complete(binary: Path) -> None:
    (binary / "rigs.bin").unlink()
    (binary / "frames.bin").unlink()
    check_model_files(binary)
    (binary / "points3D.bin").unlink()
    with pytest.raises(LumenError, match="points3D.bin: no such file"):
        check_model_files(binary)


def test_a_focal_length_of_0_is_named(model: pycolmap.Reconstruction, tmp_path: Path) -> None:
    model.write_text(tmp_path)
    path = tmp_path / "cameras.txt"
    path.write_text(path.read_text().replace(" 640 480 300 ", " 640 480 0 "))
    with pytest.raises(LumenError, match="focal length of camera 90"):
        read_model(tmp_path)


@pytest.mark.parametrize(("name", "place", "message"), [("frames", -28, "pose"), ("points3D", 16, "point")])
def test_a_value_that_is_not_finite_is_named(binary: Path, name: str, place: int, message: str) -> None:
    """The last number of the last pose, and the first coordinate of the first point."""
    path = binary / f"{name}.bin"
    content = bytearray(path.read_bytes())
    struct.pack_into("<d", content, place, np.nan)
    path.write_bytes(content)
    with pytest.raises(LumenError, match=f"{message} .*is not finite"):
        read_model(binary)
