"""Text models of other programs are read completely; truncated and malformed ones are reported with the line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from colmap_models import image_lines, write_known_poses
from pipeline.errors import LumenError
from scenes import scene
from sfm.colmap.model import model_from_training_data, poses_from_model, read_model

FILES = ("cameras.txt", "images.txt", "points3D.txt")
HEADERS = {
    "cameras.txt": "# Camera list with one line of data per camera:\n# Number of cameras: 1\n",
    "images.txt": "# Image list with two lines per image:\n# Number of images: 7, mean observations per image: 0\n",
    "points3D.txt": "# 3D point list with one line of data per point:\n# Number of points: 0, mean track length: 0\n",
}


def edit(folder: Path, change: Callable[[str, str], str]) -> None:
    for name in FILES:
        path = folder / name
        # As bytes, so that line ends are not translated.
        path.write_bytes(change(name, path.read_text()).encode())


VARIANTS: dict[str, Callable[[str, str], str]] = {
    "as COLMAP writes it": lambda name, text: HEADERS[name] + text,
    "without comments": lambda _, text: text,
    "with Windows line ends": lambda name, text: (HEADERS[name] + text).replace("\n", "\r\n"),
    "without a newline at the end": lambda _, text: text[:-1],
    "without white space at the end": lambda name, text: (HEADERS[name] + text).rstrip(),
    "without white space at the end, on Windows": lambda _, text: text.rstrip().replace("\n", "\r\n"),
    "without the last line of points": lambda _, text: text.rstrip() + "\n",
    "with a byte order mark": lambda _, text: "\ufeff" + text,
    "with empty lines around": lambda _, text: f"\n{text}\n\n",
    "with an outdated count in the header": lambda name, text: HEADERS[name].replace("7", "2") + text,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pose_of_a_model_without_points_is_read(tmp_path: Path, variant: str) -> None:
    data = write_known_poses(tmp_path)
    edit(tmp_path, VARIANTS[variant])
    model = read_model(tmp_path)
    read = poses_from_model(model)
    np.testing.assert_allclose(read.cam_from_world, data.cam_from_world, atol=1e-9)
    np.testing.assert_array_equal(read.frame_index, data.frame_index)
    assert [path.name for path in read.image_paths] == [path.name for path in data.image_paths]
    assert not len(read.points) and not len(read.observation_point)


def test_points_survive_a_missing_newline(tmp_path: Path) -> None:
    model_from_training_data(scene()).write_text(tmp_path)
    for path in tmp_path.iterdir():
        path.write_text(path.read_text().rstrip())
    read = poses_from_model(read_model(tmp_path))
    np.testing.assert_allclose(read.points, scene().points, atol=1e-9)
    np.testing.assert_array_equal(read.observation_view, scene().observation_view)


def test_names_with_spaces_are_read_completely(tmp_path: Path) -> None:
    names = [f"left eye/frame {index}.png" for index in range(7)]
    write_known_poses(tmp_path, names=names)
    assert [str(path) for path in poses_from_model(read_model(tmp_path)).image_paths] == names


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("images.txt", lambda text: text.replace("\n\n", "\n"), "images.txt .*line 2 is not the points"),
        ("images.txt", lambda text: text[: len(text) // 2], "images.txt .*"),
        ("images.txt", lambda text: text.rstrip()[:-2], "images.txt .*last line is incomplete"),
        (
            "images.txt",
            lambda text: HEADERS["images.txt"] + text[: text.index("\n\n") + 2],
            "declares 7 images, but it holds 1",
        ),
        ("images.txt", lambda text: "1 0 0 0 0 1 1 1 1 00000001.jpg\n\n" + text, "line 1 is not IMAGE_ID QW"),
        ("images.txt", lambda text: "1 nan 0 0 0 1 1 1 1 00000001.jpg\n\n" + text, "line 1 is not IMAGE_ID QW"),
        ("images.txt", lambda text: "1.0 1 0 0 0 1 1 1 1 00000001.jpg\n\n" + text, "line 1 is not IMAGE_ID QW"),
        ("cameras.txt", lambda text: text.replace(" 60.25", ""), "cameras.txt .*line 1"),
        ("cameras.txt", lambda text: text.replace("PINHOLE", "TELESCOPE"), "cameras.txt .*line 1"),
        ("points3D.txt", lambda _: "1 0.5 0.5\n", "points3D.txt .*line 1"),
        ("points3D.txt", lambda _: "1 0.5 0.5 1 0 0 0 -1 1\n", "points3D.txt .*line 1"),
    ],
)
def test_a_malformed_line_is_reported(tmp_path: Path, name: str, damaged: Callable[[str], str], message: str) -> None:
    write_known_poses(tmp_path)
    (tmp_path / name).write_text(damaged((tmp_path / name).read_text()))
    with pytest.raises(LumenError, match=message):
        read_model(tmp_path)


def test_missing_or_truncated_points_of_the_last_image_are_detected(tmp_path: Path) -> None:
    model_from_training_data(scene()).write_text(tmp_path)
    path = tmp_path / "images.txt"
    lines = path.read_text().splitlines(keepends=True)
    for text in ("".join(lines[:-1]), "".join(lines).rstrip()[:-1]):
        path.write_text(text)
        with pytest.raises(LumenError, match="truncated or damaged"):
            read_model(tmp_path)


def test_a_name_that_is_not_utf_8_is_reported(tmp_path: Path) -> None:
    write_known_poses(tmp_path)
    (tmp_path / "images.txt").write_bytes(image_lines(scene())[0].encode() + b"\xe9.jpg\n\n")
    with pytest.raises(LumenError, match="line 1"):
        read_model(tmp_path)
    binary = tmp_path / "binary"
    binary.mkdir()
    model_from_training_data(scene()).write_binary(binary)
    path = binary / "images.bin"
    path.write_bytes(path.read_bytes().replace(b".jpg\0", b".jp\xe9\0"))
    with pytest.raises(LumenError, match="is not UTF-8"):
        read_model(binary)


def test_an_image_with_a_missing_camera_is_detected(tmp_path: Path) -> None:
    write_known_poses(tmp_path, camera_of_image=[1, 1, 1, 7, 1, 1, 1])
    with pytest.raises(LumenError, match="files belong to different models"):
        read_model(tmp_path)


@pytest.mark.parametrize("missing", ["rigs", "frames"])
@pytest.mark.parametrize("form", ["txt", "bin"])
def test_a_model_has_both_rigs_and_frames_or_neither(tmp_path: Path, missing: str, form: str) -> None:
    model = model_from_training_data(scene())
    model.write_text(tmp_path) if form == "txt" else model.write_binary(tmp_path)
    (tmp_path / f"{missing}.{form}").unlink()
    with pytest.raises(LumenError, match=f"holds only .*: a model has both rigs.{form} and frames.{form}"):
        read_model(tmp_path)


def test_an_unregistered_image_is_left_out(tmp_path: Path) -> None:
    model = model_from_training_data(scene())
    image = pycolmap.Image(name="00000001.jpg", camera_id=1, image_id=90, keypoints=np.zeros((0, 2)))
    model.add_image_with_trivial_frame(image)
    read = poses_from_model(model)
    np.testing.assert_array_equal(read.frame_index, scene().frame_index)
    np.testing.assert_array_equal(read.selected_index, [1, *scene().frame_index])
