"""Conversion of SfM results between formats, through the command line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from data_prep.convert import ConvertConfig, run
from pipeline.conventions import rotations_from_quaternions
from pipeline.data.jpeg import is_jpeg
from pipeline.data.sequence import Calibration, Choice, ContentArea, Frame, Sequence, Source
from pipeline.data.sequence_images import read_image
from pipeline.data.training_data import TrainingData, project
from pipeline.data.training_files import read_training_data, write_training_data
from pipeline.errors import LumenError
from pipeline.paths import ConversionPaths, SequencePaths, TrainingPaths
from repository import ROOT
from scenes import SIZE, scene
from sfm.colmap.model import model_from_training_data, read_model
from sfm.output.projection_plot import draw_projections

CONVERT = ROOT / "data_prep" / "convert.py"


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """A sequence with training data and images."""
    root = tmp_path / "sequence"
    data = scene()
    write_training_data(data, root)
    paths = SequencePaths(root)
    paths.images.mkdir()
    for index in data.frame_index:
        cv2.imwrite(str(paths.image(int(index))), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    return root


def convert(source: Path, to: Any, output: Path, **settings: Any) -> ConversionPaths:
    run(ConvertConfig(input=source, to=to, output=output, **settings))
    return ConversionPaths(output)


def test_training_data_to_colmap_and_back(sequence: Path, tmp_path: Path) -> None:
    paths = convert(sequence, "colmap", tmp_path / "colmap")
    assert read_model(paths.model).num_reg_images() == 7
    convert(tmp_path / "colmap", "training", tmp_path / "back")
    data, back = read_training_data(sequence), read_training_data(tmp_path / "back")
    np.testing.assert_allclose(back.cam_from_world, data.cam_from_world, atol=1e-9)
    np.testing.assert_array_equal(back.observation_view, data.observation_view)
    np.testing.assert_array_equal(back.colors, data.colors)
    np.testing.assert_array_equal(back.mask, data.mask)
    for path, original in zip(back.image_paths, data.image_paths, strict=True):
        assert path.read_bytes() == original.read_bytes()


def test_nerfstudio_cameras_project_points_to_the_same_pixels(sequence: Path, tmp_path: Path) -> None:
    paths = convert(sequence, "nerfstudio", tmp_path / "nerf")
    frames = json.loads(paths.transforms.read_text())["frames"]
    data = scene()
    expected, _ = data.project(np.zeros(7, np.int64), np.arange(7))
    for frame, pixel in zip(frames, expected, strict=True):
        x, y, z = (np.linalg.inv(frame["transform_matrix"]) @ [*data.points[0], 1])[:3]
        assert z < 0
        found = (frame["cx"] + frame["fl_x"] * x / -z, frame["cy"] - frame["fl_y"] * y / -z)
        np.testing.assert_allclose(found, pixel, atol=1e-9)
        assert (paths.transforms.parent / frame["file_path"]).exists()


def test_nerfstudio_point_cloud_is_in_the_cameras_world_frame(sequence: Path, tmp_path: Path) -> None:
    paths = convert(sequence, "nerfstudio", tmp_path / "nerf")
    assert json.loads(paths.transforms.read_text())["ply_file_path"] == "sparse_pc.ply"
    vertices = PlyData.read(str(paths.point_cloud))["vertex"].data
    data = scene()
    np.testing.assert_array_equal(np.column_stack([vertices[axis] for axis in "xyz"]), data.points)
    np.testing.assert_array_equal(np.column_stack([vertices[name] for name in ("red", "green", "blue")]), data.colors)


def test_nerfstudio_point_cloud_has_colours_even_if_the_points_have_none(sequence: Path, tmp_path: Path) -> None:
    write_training_data(replace(scene(), colors=None), sequence)
    paths = convert(sequence, "nerfstudio", tmp_path / "nerf")
    assert set(PlyData.read(str(paths.point_cloud))["vertex"].data["red"]) == {128}


@pytest.fixture
def masked(sequence: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """The sequence with a content area, and its third view's own mask: folder, content area, own mask."""
    content = np.zeros(SIZE[::-1], np.uint8)
    content[2:-2, 1:-1] = 255
    write_training_data(replace(scene(), mask=content), sequence)
    own = content.copy()
    own[40:60, 30:50] = 0
    paths = SequencePaths(sequence)
    paths.frame_masks.mkdir()
    cv2.imwrite(str(paths.frame_mask(int(scene().frame_index[2]))), own)
    return sequence, content, own


def test_masks_are_converted_with_the_images_and_back(
    masked: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    sequence, content, own = masked
    expected = [own if view == 2 else content for view in range(7)]
    colmap = convert(sequence, "colmap", tmp_path / "colmap")
    nerf = convert(sequence, "nerfstudio", tmp_path / "nerf")
    again = convert(colmap.root, "nerfstudio", tmp_path / "again")
    for paths in (nerf, again):
        frames = json.loads(paths.transforms.read_text())["frames"]
        found = [cv2.imread(str(paths.root / frame["mask_path"]), cv2.IMREAD_UNCHANGED) for frame in frames]
        np.testing.assert_array_equal(found, expected)
    images = sorted(SequencePaths(colmap.root).images.iterdir())
    masks = [SequencePaths(colmap.root).frame_masks / f"{path.name}.png" for path in images]
    np.testing.assert_array_equal([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in masks], expected)
    for place in (colmap.root, colmap.model):
        back = convert(place, "training", tmp_path / "back", overwrite=True)
        np.testing.assert_array_equal(read_training_data(back.root).mask, content)


def test_no_content_area_is_invented_for_a_model_without_one(sequence: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    model_from_training_data(scene()).write_binary(model)
    images = SequencePaths(sequence).images
    nerf = convert(model, "nerfstudio", tmp_path / "nerf", images=images)
    assert all("mask_path" not in frame for frame in json.loads(nerf.transforms.read_text())["frames"])
    colmap = convert(model, "colmap", tmp_path / "colmap", images=images)
    for paths in (nerf, colmap):
        assert not SequencePaths(paths.root).frame_masks.exists() and not SequencePaths(paths.root).mask.exists()


def test_mask_with_another_size_than_the_content_area_is_reported(sequence: Path, tmp_path: Path) -> None:
    path = SequencePaths(sequence).frame_mask(int(scene().frame_index[4]))
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full((20, 30), 255, np.uint8))
    with pytest.raises(LumenError, match=f"{path.name} has 30x20 pixels"):
        convert(sequence, "colmap", tmp_path / "out")


def test_trajectory_is_camera_to_world_at_true_timestamps(sequence: Path, tmp_path: Path) -> None:
    data = scene()
    timestamps_s = 86.75 + 0.04 * np.arange(7) ** 1.5
    save_sequence(sequence, data, timestamps_s)
    paths = convert(sequence, "tum", tmp_path / "tum")
    rows = np.loadtxt(paths.trajectory)
    np.testing.assert_allclose(rows[:, 0], timestamps_s, atol=1e-6)
    rotations = rotations_from_quaternions(rows[:, [7, 4, 5, 6]])
    centres = -np.einsum("nji,nj->ni", data.cam_from_world[:, :, :3], data.cam_from_world[:, :, 3])
    np.testing.assert_allclose(rows[:, 1:4], centres, atol=1e-9)
    np.testing.assert_allclose(rotations, data.cam_from_world[:, :, :3].transpose(0, 2, 1), atol=1e-9)


def test_timestamps_without_a_sequence_need_fps(sequence: Path, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="no sequence.yaml .*: give the frame rate of the video, such as --fps 30$"):
        convert(sequence, "tum", tmp_path / "tum")
    rows = np.loadtxt(convert(sequence, "tum", tmp_path / "tum", fps=25.0).trajectory)
    np.testing.assert_allclose(rows[:, 0], scene().frame_index / 25, atol=1e-6)


def test_pose_direction_is_detected_reported_and_overridable(sequence: Path, tmp_path: Path) -> None:
    report = json.loads(convert(sequence, "colmap", tmp_path / "auto").report.read_text())
    assert report["counts"]["pose_direction"] == "cam_from_world"
    inverted = convert(sequence, "colmap", tmp_path / "inverted", pose_direction="world_from_cam")
    poses = [image.cam_from_world().matrix() for _, image in sorted(read_model(inverted.model).images.items())]
    inverse = [np.linalg.inv(np.vstack([pose, [0, 0, 0, 1]]))[:3] for pose in scene().cam_from_world]
    np.testing.assert_allclose(poses, inverse, atol=1e-9)


def test_other_image_formats_become_jpeg(sequence: Path, tmp_path: Path) -> None:
    data = scene()
    model_folder, images = tmp_path / "model" / "sparse" / "0", tmp_path / "model" / "images"
    model_folder.mkdir(parents=True)
    images.mkdir()
    named = TrainingData(**{**vars(data), "image_paths": [Path(f"frame_{i}.png") for i in data.frame_index]})
    model_from_training_data(named).write_binary(model_folder)
    for path in named.image_paths:
        cv2.imwrite(str(images / path), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    convert(tmp_path / "model", "training", tmp_path / "out", mask=TrainingPaths(sequence).mask)
    for path in read_training_data(tmp_path / "out").image_paths:
        assert path.suffix == ".jpg" and cv2.imread(str(path)) is not None


def with_exif(path: Path) -> None:
    """Rewrite an image with a name and an orientation in its EXIF."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "DOE JANE", 6
    image = Image.open(path)
    image.save(path, exif=exif, comment="DOE JANE")


def outside(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_ino, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", ["nerfstudio", "colmap", "training"])
def test_output_shares_no_storage_with_the_input(sequence: Path, tmp_path: Path, to: str) -> None:
    convert(sequence, "colmap", tmp_path / "model")
    before = outside(tmp_path / "model")
    paths = convert(tmp_path / "model", to, tmp_path / "out")
    inodes = {inode for inode, _ in before.values()}
    for path in (path for path in paths.root.rglob("*") if path.is_file()):
        assert path.stat().st_ino not in inodes and path.stat().st_nlink == 1
    for image in SequencePaths(paths.root).images.iterdir():
        with image.open("r+b") as stream:
            stream.write(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
            stream.truncate()
    assert outside(tmp_path / "model") == before


@pytest.mark.parametrize("to", ["nerfstudio", "colmap", "training"])
def test_images_lose_their_metadata_and_keep_their_pixels(sequence: Path, tmp_path: Path, to: str) -> None:
    originals = sorted(SequencePaths(sequence).images.iterdir())
    for path in originals:
        with_exif(path)
    paths = convert(sequence, to, tmp_path / "out")
    for original, path in zip(originals, sorted(SequencePaths(paths.root).images.iterdir()), strict=True):
        assert b"DOE JANE" in original.read_bytes() and b"DOE JANE" not in path.read_bytes()
        np.testing.assert_array_equal(read_image(path), read_image(original))


def test_image_format_is_detected_from_content_not_from_the_name(sequence: Path, tmp_path: Path) -> None:
    path = SequencePaths(sequence).image(int(scene().frame_index[2]))
    path.write_bytes(cv2.imencode(".png", np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))[1].tobytes())
    paths = convert(sequence, "colmap", tmp_path / "out")
    assert is_jpeg(SequencePaths(paths.root).image(int(scene().frame_index[2])).read_bytes())


def test_truncated_image_is_reported(sequence: Path, tmp_path: Path) -> None:
    path = SequencePaths(sequence).image(int(scene().frame_index[2]))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LumenError, match=f"{path.name} cannot be read as an image"):
        convert(sequence, "colmap", tmp_path / "out")


def test_check_plots_are_green_at_listed_observations(sequence: Path, tmp_path: Path) -> None:
    paths = convert(sequence, "colmap", tmp_path / "out", check=True)
    assert len(list(paths.check.iterdir())) == 7
    data = read_training_data(sequence)
    plot = draw_projections(data, 3)
    listed = data.observation_point[data.observation_view == 3]
    pixels, _ = project(data.points[listed], data.cam_from_world[[3] * len(listed)], data.pinhole[[3] * len(listed)])
    for column, row in pixels.astype(int):
        blue, green, red = plot[row, column].astype(int)
        assert green > 180 and red < 120 and blue < 120


@pytest.mark.parametrize(
    "damage, arguments, message",
    [
        ("", ["missing", "--to", "tum"], "not a folder"),
        ("", ["nothing", "--to", "colmap"], "holds neither"),
        ("motion", ["sequence", "--to", "colmap"], "motion.yaml"),
        ("image", ["sequence", "--to", "colmap"], "no such file"),
        ("", ["sequence", "--to", "tum", "--fps", "0"], "--fps 0"),
        ("output", ["sequence", "--to", "colmap"], "has no record of"),
    ],
)
def test_bad_input_gives_one_error_line_and_exit_1(
    sequence: Path, tmp_path: Path, damage: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "nothing").mkdir()
    if damage == "motion":
        TrainingPaths(sequence).motion.write_text("poses[]:\n  poses[0]: {}\n")
    if damage == "image":
        SequencePaths(sequence).image(int(scene().frame_index[2])).unlink()
    if damage == "output":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("work")
    command = [sys.executable, str(CONVERT), *arguments, "--output", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and len(errors) == 1 and message in errors[0], done.stderr
    assert not (tmp_path / ".partial.out").exists()


def test_colmap_model_without_mask_or_images_reports_the_missing_option(sequence: Path, tmp_path: Path) -> None:
    bare = tmp_path / "elsewhere" / "a" / "b" / "model"
    bare.mkdir(parents=True)
    model_from_training_data(scene()).write_binary(bare)
    with pytest.raises(LumenError, match="--images"):
        convert(bare, "training", tmp_path / "out")
    with pytest.raises(LumenError, match="--mask"):
        convert(bare, "training", tmp_path / "out", images=SequencePaths(sequence).images)
    convert(bare, "tum", tmp_path / "out", fps=30.0)


def test_images_with_equal_numbers_are_refused_and_unchanged(sequence: Path, tmp_path: Path) -> None:
    data = scene()
    model_folder, images = tmp_path / "model" / "sparse" / "0", tmp_path / "model" / "images"
    model_folder.mkdir(parents=True)
    images.mkdir()
    names = [Path(f"left{number}_2.jpg") for number in range(len(data.frame_index))]
    model_from_training_data(replace(data, image_paths=names)).write_binary(model_folder)
    for number, path in enumerate(names):
        cv2.imwrite(str(images / path), np.full((SIZE[1], SIZE[0], 3), 10 * number, np.uint8))
    before = [(images / path).read_bytes() for path in names]
    with pytest.raises(LumenError, match="'left0_2.jpg' and 'left1_2.jpg' have the same frame number"):
        convert(tmp_path / "model", "training", tmp_path / "out", mask=TrainingPaths(sequence).mask)
    assert [(images / path).read_bytes() for path in names] == before


def test_observations_are_preserved(sequence: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert(sequence, "colmap", tmp_path / "projected")
    assert "observations are set to the projections of the points" in caplog.text
    model = model_from_training_data(scene())
    for image in model.images.values():
        for point in image.points2D:
            point.xy += [0.3, -0.4]
    model.write_binary(TrainingPaths(sequence).model)
    paths = convert(sequence, "colmap", tmp_path / "out")
    again = convert(paths.root, "colmap", tmp_path / "again")
    for folder in (paths.model, again.model):
        found = read_model(folder)
        found.update_point_3d_errors()
        assert found.compute_mean_reprojection_error() == pytest.approx(0.5, abs=1e-3)
        names = {image.name for image in found.images.values()}
        assert names == {path.name for path in SequencePaths(paths.root).images.iterdir()}


def test_wrong_pose_direction_gives_a_warning(sequence: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert(sequence, "tum", tmp_path / "right", pose_direction="cam_from_world", fps=30.0)
    assert "explains more" not in caplog.text
    convert(sequence, "tum", tmp_path / "wrong", pose_direction="world_from_cam", fps=30.0)
    assert "although the other direction explains more" in caplog.text


@pytest.mark.parametrize("output", [".", "..", "../sequence"])
def test_output_that_contains_the_input_is_refused(sequence: Path, output: str) -> None:
    ConversionPaths(sequence).report.parent.mkdir()
    ConversionPaths(sequence).report.write_text("{}")
    with pytest.raises(LumenError, match="the input"):
        convert(sequence, "tum", sequence / output, fps=30.0, overwrite=True)
    assert read_training_data(sequence).image_paths[0].exists()


def test_symbolic_links_to_images_are_followed(sequence: Path, tmp_path: Path) -> None:
    for path in sorted(SequencePaths(sequence).images.iterdir()):
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real").name)
    convert(sequence, "colmap", tmp_path / "out")
    for path in SequencePaths(tmp_path / "out").images.iterdir():
        assert cv2.imread(str(path)) is not None


@pytest.mark.parametrize("size", [(SIZE[0] + 40, SIZE[1]), (SIZE[0] // 2, SIZE[1] // 2)])
def test_image_with_another_size_than_the_mask_is_reported(
    sequence: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Both an image in the middle and the first one, whose size is compared with the mask on reading."""
    for view in (3, 0):
        path = SequencePaths(sequence).image(int(scene().frame_index[view]))
        cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))
        with pytest.raises(LumenError, match=path.name):
            convert(sequence, "colmap", tmp_path / "out")


def test_one_of_several_models_can_be_selected(sequence: Path, tmp_path: Path) -> None:
    data = replace(scene(), points=2 * scene().points, cam_from_world=scene().cam_from_world * [1, 1, 1, 2])
    write_training_data(data, sequence, number=1)
    for number, factor in ((0, 1), (1, 2)):
        paths = convert(TrainingPaths(sequence, number=number).model, "colmap", tmp_path / f"out{number}")
        points = read_model(paths.model).points3D
        np.testing.assert_allclose(points[1].xyz, factor * scene().points[0], atol=1e-6)


def test_views_are_in_video_order(sequence: Path) -> None:
    paths = TrainingPaths(sequence)
    order = np.arange(len(scene().frame_index))[::-1]
    shuffled = replace(scene(), frame_index=scene().frame_index[order], cam_from_world=scene().cam_from_world[order])
    observed = read_training_data(sequence)
    write_training_data(replace(shuffled, observation_view=len(order) - 1 - shuffled.observation_view), sequence)
    assert paths.visible.read_text().split()[0] == str(scene().frame_index[-1])
    again = read_training_data(sequence)
    np.testing.assert_array_equal(again.frame_index, observed.frame_index)
    np.testing.assert_allclose(again.cam_from_world, observed.cam_from_world)
    np.testing.assert_array_equal(again.observation_point, observed.observation_point)
    np.testing.assert_array_equal(again.observation_view, observed.observation_view)


def test_options_of_the_other_input_format_are_refused(sequence: Path, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="--mask is for COLMAP models"):
        convert(sequence, "colmap", tmp_path / "out", mask=TrainingPaths(sequence).mask)
    convert(sequence, "colmap", tmp_path / "model")
    with pytest.raises(LumenError, match="--pose_direction is for training data"):
        convert(tmp_path / "model", "tum", tmp_path / "out", pose_direction="world_from_cam")


def save_sequence(root: Path, data: TrainingData, timestamps_s: np.ndarray) -> None:
    Sequence(
        format_version=1,
        tool="test",
        width=SIZE[0],
        height=SIZE[1],
        source=Source(None, "video", "0", 30.0, 99, [[1, 0], [0, 1]], None),
        calibration=Calibration("uncalibrated"),
        content_area=ContentArea([0, 0, *SIZE], 1.0, 0),
        choice=Choice({}, "start", {}),
        frames=[
            Frame(int(index), float(time_s), 1.0, 1.0, 0.0, 1.0)
            for index, time_s in zip(data.frame_index, timestamps_s, strict=True)
        ],
        rejected=[],
    ).save(SequencePaths(root).sequence)
