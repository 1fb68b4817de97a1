"""Evaluation, trajectories and views of COLMAP models that have poses and little else, or lenses of any kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d as o3d
import pycolmap
import pytest

from colmap_models import LENSES, PINHOLE, write_known_poses
from data_prep.convert import ConvertConfig
from data_prep.convert import run as convert
from pipeline.conventions import rotations_from_quaternions
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.training_files import write_training_data
from pipeline.errors import LumenError
from pipeline.paths import ConversionPaths
from scenes import SIZE, scene
from sfm.colmap.model import model_from_training_data
from sfm.evaluate import EvaluateConfig, against_other, against_truth, read_reconstruction
from sfm.evaluate import run as evaluate
from sfm.evaluation.surface import SurfaceTruth
from sfm.view import ViewConfig
from sfm.view import run as view

NAMES = ("ant.png", "bee.png", "cow.png", "dog.png", "elk.png", "fox.png", "gnu.png")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Training data of the scene."""
    write_training_data(scene(), tmp_path / "reference")
    images = tmp_path / "reference" / "images"
    images.mkdir()
    for path in scene().image_paths:
        cv2.imwrite(str(images / path.name), np.full((*SIZE[::-1], 3), 90, np.uint8))
    return tmp_path / "reference"


def figure(lines: list[str], name: str) -> float:
    (line,) = [each for each in lines if each.startswith(name)]
    return float(line.removeprefix(name).split()[0].rstrip("%"))


def to_tum(model: Path, output: Path, **settings: Any) -> np.ndarray:
    convert(ConvertConfig(input=model, to="tum", output=output, fps=30.0, **settings))
    return np.loadtxt(ConversionPaths(output).trajectory)


@pytest.mark.parametrize("lens", LENSES)
def test_poses_without_points_are_enough_with_any_lens(reference: Path, tmp_path: Path, lens: str) -> None:
    data = write_known_poses(tmp_path / "model", [f"{lens} {LENSES[lens]}"])
    lines = against_other(read_reconstruction(tmp_path / "model"), read_reconstruction(reference))
    assert figure(lines, "frames in common") == 7 and figure(lines, "ATE") < 1e-6
    rows = to_tum(tmp_path / "model", tmp_path / "tum")
    rotations = rotations_from_quaternions(rows[:, [7, 4, 5, 6]])
    np.testing.assert_allclose(rotations, data.cam_from_world[:, :, :3].transpose(0, 2, 1), atol=1e-9)
    picture = tmp_path / "cameras.png"
    view(ViewConfig(tmp_path / "model", render=picture, size=(320, 240)))
    assert len(np.unique(cv2.imread(str(picture)).reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("lens", LENSES)
def test_points_come_with_any_lens(tmp_path: Path, lens: str) -> None:
    model = model_from_training_data(scene())
    values = [float(value) for value in LENSES[lens].split()[2:]]
    model.cameras[1].model = getattr(pycolmap.CameraModelId, lens)
    model.cameras[1].params = values
    model.write_binary(tmp_path)
    data = read_reconstruction(tmp_path)
    np.testing.assert_allclose(data.points, scene().points, atol=1e-9)
    np.testing.assert_array_equal(data.observation_view, scene().observation_view)


def test_what_points_would_give_is_said_to_be_missing(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_known_poses(tmp_path / "model")
    evaluate(EvaluateConfig(tmp_path / "model", against=reference))
    assert "points                   0 against 40" in capsys.readouterr().out
    images, mask = reference / "images", reference / "colmap" / "0" / "undistorted_mask.bmp"
    with pytest.raises(LumenError, match="no points with observations; training data needs them"):
        convert(ConvertConfig(tmp_path / "model", "training", tmp_path / "out", images=images, mask=mask))
    convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "nerf", images=images))
    paths = ConversionPaths(tmp_path / "nerf")
    assert "ply_file_path" not in json.loads(paths.transforms.read_text()) and not paths.point_cloud.exists()


@pytest.mark.parametrize("views", [1, 2, 3])
def test_few_cameras_alone_can_be_shown(tmp_path: Path, views: int) -> None:
    data = scene(views=7)
    few = replace(data, cam_from_world=data.cam_from_world[:views], image_paths=data.image_paths[:views])
    write_known_poses(tmp_path / "model", data=few)
    view(ViewConfig(tmp_path / "model", render=tmp_path / "few.png", size=(320, 240)))
    assert (tmp_path / "few.png").exists()


def test_frames_without_a_number_are_matched_by_their_names(tmp_path: Path) -> None:
    data = write_known_poses(tmp_path / "all", names=NAMES)
    some = replace(data, cam_from_world=data.cam_from_world[1:6])
    write_known_poses(tmp_path / "some", names=NAMES[1:6], data=some)
    lines = against_other(read_reconstruction(tmp_path / "some"), read_reconstruction(tmp_path / "all"))
    assert figure(lines, "frames in common") == 5 and figure(lines, "ATE") < 1e-6
    write_known_poses(tmp_path / "others", names=[f"other_{name}" for name in NAMES])
    with pytest.raises(LumenError, match="they have 0 frames whose images have the same name"):
        against_other(read_reconstruction(tmp_path / "some"), read_reconstruction(tmp_path / "others"))


def test_frames_without_a_number_have_no_time_and_no_truth(tmp_path: Path) -> None:
    write_known_poses(tmp_path / "model", names=NAMES)
    with pytest.raises(LumenError, match="each name needs its own number"):
        to_tum(tmp_path / "model", tmp_path / "tum")
    with pytest.raises(LumenError, match="--truth needs the frame of each image"):
        evaluate(EvaluateConfig(tmp_path / "model", truth=tmp_path / "phantom"))


def test_cameras_side_by_side_are_matched_by_folder_and_name(tmp_path: Path) -> None:
    names = [f"{side}/{frame:04d}.png" for frame in (8, 9, 10) for side in ("left", "right")] + ["left/0011.png"]
    cameras = [PINHOLE, "OPENCV 80 60 45 45 40 30 0.1 0 0 0"]
    of_image = [1, 2, 1, 2, 1, 2, 1]
    write_known_poses(tmp_path / "a", cameras, names, of_image)
    order = np.random.default_rng(0).permutation(7)
    shuffled = replace(scene(), cam_from_world=scene().cam_from_world[order])
    write_known_poses(tmp_path / "b", cameras, [names[i] for i in order], [of_image[i] for i in order], shuffled)
    data = read_reconstruction(tmp_path / "a")
    assert [str(path) for path in data.image_paths] == sorted(names)
    lines = against_other(data, read_reconstruction(tmp_path / "b"))
    assert figure(lines, "frames in common") == 7 and figure(lines, "ATE") < 1e-6
    with pytest.raises(LumenError, match="each name needs its own number"):
        to_tum(tmp_path / "a", tmp_path / "tum")


def test_images_in_folders_are_known_by_their_numbers(reference: Path, tmp_path: Path) -> None:
    write_known_poses(tmp_path / "model", names=[f"day 1/scope/{path.stem}.png" for path in scene().image_paths])
    lines = against_other(read_reconstruction(tmp_path / "model"), read_reconstruction(reference))
    assert figure(lines, "frames in common") == 7


def test_a_trajectory_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "trajectory.tum").write_text("0.0 0 0 0 0 0 0 1\n")
    with pytest.raises(LumenError, match="is a file, .*evo compares trajectories"):
        read_reconstruction(tmp_path / "trajectory.tum")


@pytest.mark.parametrize("lens", ["FULL_OPENCV", "FOV", "THIN_PRISM_FISHEYE", "EQUIRECTANGULAR"])
def test_a_lens_that_nerfstudio_lacks_is_named(reference: Path, tmp_path: Path, lens: str) -> None:
    write_known_poses(tmp_path / "model", [f"{lens} {LENSES[lens]}"])
    with pytest.raises(LumenError, match=f"camera 1 is {lens}, unknown to nerfstudio"):
        convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "nerf", images=reference / "images"))


def distorted(frame: dict[str, float], head: dict[str, Any], x: float, y: float) -> tuple[float, float]:
    """Where nerfstudio's cameras, which are OpenCV's, see the ray (x, y, 1)."""
    k = [{**head, **frame}.get(f"k{i}", 0.0) for i in range(1, 5)]
    p1, p2 = ({**head, **frame}.get(name, 0.0) for name in ("p1", "p2"))
    r = np.hypot(x, y)
    if head["camera_model"] == "OPENCV":
        radial = 1 + k[0] * r**2 + k[1] * r**4
        u = x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2)
        v = y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y
    else:
        theta = np.arctan(r)
        radial = theta * (1 + sum(k[i] * theta ** (2 * i + 2) for i in range(4))) / r
        u, v = x * radial, y * radial
    return frame["cx"] + frame["fl_x"] * u, frame["cy"] + frame["fl_y"] * v


@pytest.mark.parametrize(
    "lens",
    [
        "SIMPLE_RADIAL",
        "RADIAL",
        "OPENCV",
        "OPENCV_FISHEYE",
        "SIMPLE_RADIAL_FISHEYE",
        "RADIAL_FISHEYE",
        "SIMPLE_FISHEYE",
    ],
)
def test_nerfstudio_s_lenses_distort_as_colmap_s(reference: Path, tmp_path: Path, lens: str) -> None:
    values = [float(value) for value in LENSES[lens].split()[2:]]
    write_known_poses(tmp_path / "model", [f"{lens} {LENSES[lens]}"])
    convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "nerf", images=reference / "images"))
    head = json.loads(ConversionPaths(tmp_path / "nerf").transforms.read_text())
    camera = pycolmap.Camera(model=lens, width=160, height=120, params=values)
    for x, y in ((0.1, 0.2), (-0.4, 0.3)):
        expected = camera.img_from_cam(np.array([[x, y, 1.0]]))[0]
        np.testing.assert_allclose(distorted(head["frames"][0], head, x, y), expected, atol=1e-6)


def test_each_image_has_its_lens_where_they_differ(reference: Path, tmp_path: Path) -> None:
    cameras = [PINHOLE, f"OPENCV {LENSES['OPENCV']}"]
    write_known_poses(tmp_path / "model", cameras, camera_of_image=[1, 2, 1, 1, 1, 1, 2])
    convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "nerf", images=reference / "images"))
    head = json.loads(ConversionPaths(tmp_path / "nerf").transforms.read_text())
    assert "k1" not in head and [frame["k1"] for frame in head["frames"]] == [0, 0.1, 0, 0, 0, 0, 0.1]
    write_known_poses(
        tmp_path / "model",
        [*cameras, f"FISHEYE {PINHOLE.removeprefix('PINHOLE ')}"],
        camera_of_image=[1, 2, 1, 1, 3, 1, 2],
    )
    with pytest.raises(LumenError, match="one camera model for all images, not OPENCV and OPENCV_FISHEYE"):
        convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "two", images=reference / "images"))


@pytest.mark.parametrize("settings", [{"to": "training"}, {"to": "colmap"}, {"to": "nerfstudio", "check": True}])
def test_pinholes_are_asked_for_where_they_are_needed(
    reference: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    write_known_poses(tmp_path / "model", [f"OPENCV {LENSES['OPENCV']}"])
    places = {"images": reference / "images", "mask": reference / "colmap" / "0" / "undistorted_mask.bmp"}
    with pytest.raises(LumenError, match="camera 1 is OPENCV, not a pinhole camera"):
        convert(ConvertConfig(tmp_path / "model", output=tmp_path / "out", **places, **settings))


def test_poses_alone_are_measured_against_the_truth(tmp_path: Path) -> None:
    data = replace(scene(), frame_index=np.arange(7))
    names = [f"{index:08d}.jpg" for index in range(7)]
    write_known_poses(tmp_path / "model", names=names, data=data)
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=160, height=120, params=[90.0, 80.0, 60.0])
    surface = o3d.t.geometry.RaycastingScene()
    truth = SurfaceTruth(PhantomPaths(tmp_path), camera, data.cam_from_world, np.ones(7, bool), surface)
    lines = against_truth(read_reconstruction(tmp_path / "model"), truth)
    assert figure(lines, "ATE") < 1e-6
    assert lines[-1] == "points to the surface    not measured: no frame sees a point"
