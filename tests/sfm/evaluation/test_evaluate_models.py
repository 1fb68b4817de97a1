"""Evaluation, export and rendering of COLMAP models without points, without frame numbers and with any camera model."""

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
    """Training data of the synthetic scene."""
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
def test_poses_without_points_are_evaluated_for_any_camera_model(reference: Path, tmp_path: Path, lens: str) -> None:
    data = write_known_poses(tmp_path / "model", [f"{lens} {LENSES[lens]}"])
    lines = against_other(read_reconstruction(tmp_path / "model"), read_reconstruction(reference))
    assert figure(lines, "frames in common") == 7 and figure(lines, "ATE") < 1e-6
    rows = to_tum(tmp_path / "model", tmp_path / "tum")
    rotations = rotations_from_quaternions(rows[:, [7, 4, 5, 6]])
    np.testing.assert_allclose(rotations, data.cam_from_world[:, :, :3].transpose(0, 2, 1), atol=1e-9)
    rendered = tmp_path / "cameras.png"
    view(ViewConfig(tmp_path / "model", render=rendered, size=(320, 240)))
    assert len(np.unique(cv2.imread(str(rendered)).reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("lens", LENSES)
def test_points_are_read_for_any_camera_model(tmp_path: Path, lens: str) -> None:
    model = model_from_training_data(scene())
    values = [float(value) for value in LENSES[lens].split()[2:]]
    model.cameras[1].model = getattr(pycolmap.CameraModelId, lens)
    model.cameras[1].params = values
    model.write_binary(tmp_path)
    data = read_reconstruction(tmp_path)
    np.testing.assert_allclose(data.points, scene().points, atol=1e-9)
    np.testing.assert_array_equal(data.observation_view, scene().observation_view)


def test_missing_points_are_reported(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_one_to_three_cameras_without_points_can_be_rendered(tmp_path: Path, views: int) -> None:
    data = scene(views=7)
    few = replace(data, cam_from_world=data.cam_from_world[:views], image_paths=data.image_paths[:views])
    write_known_poses(tmp_path / "model", data=few)
    view(ViewConfig(tmp_path / "model", render=tmp_path / "few.png", size=(320, 240)))
    assert (tmp_path / "few.png").exists()


def test_frames_without_a_number_are_matched_by_name(tmp_path: Path) -> None:
    data = write_known_poses(tmp_path / "all", names=NAMES)
    some = replace(data, cam_from_world=data.cam_from_world[1:6])
    write_known_poses(tmp_path / "some", names=NAMES[1:6], data=some)
    lines = against_other(read_reconstruction(tmp_path / "some"), read_reconstruction(tmp_path / "all"))
    assert figure(lines, "frames in common") == 5 and figure(lines, "ATE") < 1e-6
    write_known_poses(tmp_path / "others", names=[f"other_{name}" for name in NAMES])
    with pytest.raises(LumenError, match="share 0 frames by image name"):
        against_other(read_reconstruction(tmp_path / "some"), read_reconstruction(tmp_path / "others"))


def test_frames_without_a_number_have_no_timestamp_and_no_ground_truth(tmp_path: Path) -> None:
    write_known_poses(tmp_path / "model", names=NAMES)
    with pytest.raises(LumenError, match="each name needs its own number"):
        to_tum(tmp_path / "model", tmp_path / "tum")
    with pytest.raises(LumenError, match="ground truth needs the frame index in each image name"):
        evaluate(EvaluateConfig(tmp_path / "model", truth=tmp_path / "phantom"))


def test_images_of_a_stereo_camera_are_matched_by_folder_and_name(tmp_path: Path) -> None:
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


def test_images_in_folders_are_matched_by_number(reference: Path, tmp_path: Path) -> None:
    write_known_poses(tmp_path / "model", names=[f"day 1/scope/{path.stem}.png" for path in scene().image_paths])
    lines = against_other(read_reconstruction(tmp_path / "model"), read_reconstruction(reference))
    assert figure(lines, "frames in common") == 7


def test_a_trajectory_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trajectory.tum").write_text("0.0 0 0 0 0 0 0 1\n")
    with pytest.raises(LumenError, match="is a file, .*use evo"):
        read_reconstruction(tmp_path / "trajectory.tum")


@pytest.mark.parametrize("lens", ["FULL_OPENCV", "FOV", "THIN_PRISM_FISHEYE", "EQUIRECTANGULAR"])
def test_a_camera_model_that_nerfstudio_lacks_is_named(reference: Path, tmp_path: Path, lens: str) -> None:
    write_known_poses(tmp_path / "model", [f"{lens} {LENSES[lens]}"])
    with pytest.raises(LumenError, match=f"camera 1 is {lens}, which nerfstudio does not support"):
        convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "nerf", images=reference / "images"))


def distorted(frame: dict[str, float], head: dict[str, Any], x: float, y: float) -> tuple[float, float]:
    """Project the ray (x, y, 1) with nerfstudio's camera models, which are OpenCV's."""
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
def test_nerfstudio_cameras_distort_as_colmap_cameras(reference: Path, tmp_path: Path, lens: str) -> None:
    values = [float(value) for value in LENSES[lens].split()[2:]]
    write_known_poses(tmp_path / "model", [f"{lens} {LENSES[lens]}"])
    convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "nerf", images=reference / "images"))
    head = json.loads(ConversionPaths(tmp_path / "nerf").transforms.read_text())
    camera = pycolmap.Camera(model=lens, width=160, height=120, params=values)
    for x, y in ((0.1, 0.2), (-0.4, 0.3)):
        expected = camera.img_from_cam(np.array([[x, y, 1.0]]))[0]
        np.testing.assert_allclose(distorted(head["frames"][0], head, x, y), expected, atol=1e-6)


def test_images_with_different_cameras_have_distortion_of_their_own(reference: Path, tmp_path: Path) -> None:
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
    with pytest.raises(LumenError, match="needs one camera model for all images, not OPENCV and OPENCV_FISHEYE"):
        convert(ConvertConfig(tmp_path / "model", "nerfstudio", tmp_path / "two", images=reference / "images"))


@pytest.mark.parametrize("settings", [{"to": "training"}, {"to": "colmap"}, {"to": "nerfstudio", "check": True}])
def test_a_distorted_camera_is_refused_where_a_pinhole_is_needed(
    reference: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    write_known_poses(tmp_path / "model", [f"OPENCV {LENSES['OPENCV']}"])
    places = {"images": reference / "images", "mask": reference / "colmap" / "0" / "undistorted_mask.bmp"}
    with pytest.raises(LumenError, match="camera 1 is OPENCV, not a pinhole camera"):
        convert(ConvertConfig(tmp_path / "model", output=tmp_path / "out", **places, **settings))


def test_poses_without_points_are_compared_with_ground_truth(tmp_path: Path) -> None:
    data = replace(scene(), frame_index=np.arange(7))
    names = [f"{index:08d}.jpg" for index in range(7)]
    write_known_poses(tmp_path / "model", names=names, data=data)
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=160, height=120, params=[90.0, 80.0, 60.0])
    surface = o3d.t.geometry.RaycastingScene()
    truth = SurfaceTruth(PhantomPaths(tmp_path), camera, data.cam_from_world, np.ones(7, bool), surface)
    lines = against_truth(read_reconstruction(tmp_path / "model"), truth)
    assert figure(lines, "ATE") < 1e-6
    assert lines[-1] == "distance to surface      not measured: no point is observed"
