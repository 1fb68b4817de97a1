"""SfM training data: compatible with files of other programs, and rejected if the files are inconsistent."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from pipeline.conventions import invert_poses, quaternions_from_rotations, rotations_from_quaternions
from pipeline.data.training_data import TrainingData, inside_mask
from pipeline.data.training_files import read_training_data, write_training_data
from pipeline.errors import LumenError
from pipeline.paths import TrainingPaths
from scenes import random_rotations, scene


def write_layout_1(data: TrainingData, root: Path, *, intrinsics: int = 3, inverted: bool = True) -> TrainingPaths:
    """Write the layout of older tools: flat, 3 intrinsics per view, world_from_cam, text PLY with a camera element."""
    write_training_data(data, root / "new")
    new, old = TrainingPaths(root / "new", 2), TrainingPaths(root, 1)
    for name in ("motion", "selected", "visible", "views_per_point", "mask"):
        getattr(old, name).write_bytes(getattr(new, name).read_bytes())
    if inverted:
        turned = TrainingData(**{**vars(data), "cam_from_world": invert_poses(data.cam_from_world)})
        write_training_data(turned, root / "turned")
        old.motion.write_bytes(TrainingPaths(root / "turned", 2).motion.read_bytes())
    rows = data.pinhole[:, [0, 2, 3]] if intrinsics == 3 else data.pinhole
    old.intrinsics.write_text("\n".join(map(str, rows.ravel())))
    vertices = np.array([tuple(point) for point in data.points], [(axis, "f4") for axis in "xyz"])
    camera = np.zeros(1, [("view_px", "f4")])
    PlyData([PlyElement.describe(vertices, "vertex"), PlyElement.describe(camera, "camera")], text=True).write(
        str(old.structure)
    )
    return old


def test_written_training_data_reads_back_exactly(tmp_path: Path) -> None:
    data = scene()
    write_training_data(data, tmp_path)
    read = read_training_data(tmp_path)
    np.testing.assert_allclose(read.cam_from_world, data.cam_from_world, atol=1e-12)
    for name in ("frame_index", "pinhole", "points", "colors", "observation_point", "observation_view", "mask"):
        np.testing.assert_array_equal(getattr(read, name), getattr(data, name))
    np.testing.assert_array_equal(read.selected_index, data.selected_index)
    assert read.direction == "cam_from_world"
    assert read.image_paths[0] == tmp_path / "images" / f"{data.frame_index[0]:08d}.jpg"


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("intrinsics", [3, 4])
def test_layout_1_is_read_with_either_pose_direction(tmp_path: Path, inverted: bool, intrinsics: int) -> None:
    data = scene()
    write_layout_1(data, tmp_path, inverted=inverted, intrinsics=intrinsics)
    read = read_training_data(tmp_path)
    assert read.direction == ("world_from_cam" if inverted else "cam_from_world")
    np.testing.assert_allclose(read.cam_from_world, data.cam_from_world, atol=1e-12)
    np.testing.assert_allclose(read.points, data.points, atol=1e-6)
    np.testing.assert_array_equal(read.observation_view, data.observation_view)
    assert read.colors is None
    assert read.pinhole[3].tolist() == ([90, 90, 80.5, 60.25] if intrinsics == 3 else [90, 91, 80.5, 60.25])
    assert read.image_paths[0] == tmp_path / f"{data.frame_index[0]:08d}.jpg"


def test_the_pose_direction_can_be_overridden(tmp_path: Path) -> None:
    data = scene()
    write_training_data(data, tmp_path)
    read = read_training_data(tmp_path, "world_from_cam")
    np.testing.assert_allclose(read.cam_from_world, invert_poses(data.cam_from_world), atol=1e-12)


@pytest.mark.parametrize("stated", ["cam_from_world", "world_from_cam", "map", "", None])
def test_the_stated_direction_decides_if_both_directions_fit(tmp_path: Path, stated: str | None) -> None:
    data = scene()
    write_training_data(replace(data, cam_from_world=np.tile(np.eye(3, 4), (len(data.frame_index), 1, 1))), tmp_path)
    motion = TrainingPaths(tmp_path).motion
    header, rest = motion.read_text().split("  frame_id: cam_from_world\n")
    motion.write_text(rest if stated is None else f"{header}  frame_id: {stated}\n{rest}")
    if stated in ("cam_from_world", "world_from_cam"):
        assert read_training_data(tmp_path).direction == stated
    else:
        with pytest.raises(LumenError, match="fit equally well"):
            read_training_data(tmp_path)


def test_intrinsics_of_one_view_apply_to_all_views(tmp_path: Path) -> None:
    data = scene()
    write_training_data(data, tmp_path)
    TrainingPaths(tmp_path).intrinsics.write_text("90\n91\n80.5\n60.25\n")
    np.testing.assert_array_equal(read_training_data(tmp_path).pinhole, data.pinhole)


def test_frames_missing_from_the_list_are_found_in_the_folder(tmp_path: Path) -> None:
    data = scene()
    write_training_data(data, tmp_path)
    paths = TrainingPaths(tmp_path)
    paths.selected.write_text("\n".join(map(str, data.selected_index[:-1])))
    paths.image(0).parent.mkdir()
    paths.image(int(data.selected_index[-1])).write_bytes(b"")
    np.testing.assert_array_equal(read_training_data(tmp_path).selected_index, data.selected_index)


def test_a_point_without_views_has_no_observations(tmp_path: Path) -> None:
    data = scene()
    write_training_data(data, tmp_path)
    paths = TrainingPaths(tmp_path)
    blocks = paths.views_per_point.read_text().split("-1\n")[1:]
    blocks[5] = ""
    paths.views_per_point.write_text("".join(f"-1\n{block}" for block in blocks))
    read = read_training_data(tmp_path)
    assert len(read.points) == len(data.points)
    assert 5 not in read.observation_point
    assert (np.diff(read.observation_point) >= 0).all()


def test_views_may_be_listed_in_any_order(tmp_path: Path) -> None:
    data = scene()
    order = np.array([3, 1, 0, 2, 6, 5, 4])
    place = np.argsort(order)
    shuffled = TrainingData(
        **{
            **vars(data),
            "frame_index": data.frame_index[order],
            "cam_from_world": data.cam_from_world[order],
            "observation_view": place[data.observation_view],
        }
    )
    write_training_data(shuffled, tmp_path)
    read = read_training_data(tmp_path)
    np.testing.assert_array_equal(read.frame_index[read.observation_view], data.frame_index[data.observation_view])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKAGES: dict[str, tuple[Callable[[TrainingPaths], object], str]] = {
    "no motion": (lambda paths: paths.motion.unlink(), "no training data"),
    "truncated motion": (lambda paths: truncate(paths.motion), "motion.yaml"),
    "another file as motion": (lambda paths: paths.motion.write_text("a: 1\n"), "no poses"),
    "NaN in a pose": (lambda paths: replace_first(paths.motion, "x: ", "x: .nan #"), "pose 0 is not finite"),
    "quaternion of zeros": (lambda paths: zero_quaternion(paths.motion), "pose 0"),
    "one frame fewer": (lambda paths: drop_last_line(paths.visible), "7 poses"),
    "a frame twice": (lambda paths: repeat_first_line(paths.visible), "twice"),
    "no frames": (lambda paths: paths.visible.write_text(""), "is empty"),
    "letters among numbers": (lambda paths: paths.visible.write_text("2603\nx\n"), "not a number"),
    "one number too few": (lambda paths: drop_last_line(paths.intrinsics), "27 numbers for 7 views"),
    "focal length of zero": (lambda paths: paths.intrinsics.write_text("0 0 80 60"), "focal length"),
    "truncated points": (lambda paths: truncate(paths.structure), "not a PLY"),
    "points that are text": (lambda paths: paths.structure.write_text("hello"), "not a PLY"),
    "no points": (lambda paths: empty_cloud(paths.structure), "has no points"),
    "fewer lists than points": (lambda paths: truncate(paths.views_per_point), "points, but the point cloud has 40"),
    "an unknown frame": (lambda paths: append(paths.views_per_point, "99999\n"), "frame 99999"),
    "mask missing": (lambda paths: paths.mask.unlink(), "no such file"),
    "mask that is text": (lambda paths: paths.mask.write_text("hello"), "not an image"),
    "mask of another size": (lambda paths: small_mask(paths.mask), "for both pose directions, fewer than 90 %"),
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_damaged_or_inconsistent_files_are_rejected(tmp_path: Path, what: str) -> None:
    write_training_data(scene(), tmp_path)
    damage, message = BREAKAGES[what]
    damage(TrainingPaths(tmp_path))
    with pytest.raises(LumenError, match=message):
        read_training_data(tmp_path)


def test_poses_that_do_not_match_the_observations_are_rejected(tmp_path: Path) -> None:
    data = scene()
    elsewhere = data.cam_from_world.copy()
    elsewhere[:, 0, 3] += 40
    write_training_data(TrainingData(**{**vars(data), "cam_from_world": elsewhere}), tmp_path)
    with pytest.raises(LumenError, match="for both pose directions, fewer than 90 %"):
        read_training_data(tmp_path)


def test_quaternion_conversions_are_inverse_at_every_angle() -> None:
    rng = np.random.default_rng(1)
    rotations = np.concatenate([random_rotations(200, rng, np.pi), np.eye(3)[None], np.diag([1.0, -1, -1])[None]])
    quaternions = quaternions_from_rotations(rotations)
    assert (quaternions[:, 0] >= 0).all()
    np.testing.assert_allclose(rotations_from_quaternions(quaternions), rotations, atol=1e-12)
    np.testing.assert_allclose(quaternions_from_rotations(np.eye(3)[None])[0], [1, 0, 0, 0], atol=1e-15)


def test_quaternions_follow_hamiltons_convention() -> None:
    """A rotation by 90 degrees about z maps x to y."""
    half = np.sqrt(0.5)
    turned = rotations_from_quaternions(np.array([[half, 0, 0, half]]))[0] @ [1, 0, 0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-15)


def test_inside_mask_uses_the_pixel_that_contains_the_point() -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[2, 5] = 255
    pixels = np.array([[5.0, 2.0], [5.99, 2.99], [4.99, 2.5], [6.0, 2.5], [5.5, 2.5], [np.nan, 2.5]])
    depth = np.array([1.0, 1, 1, 1, -1, 1])
    assert inside_mask(pixels, depth, mask).tolist() == [True, True, False, False, False, False]


@pytest.mark.skipif("LUMEN_REAL_DATA" not in os.environ, reason="LUMEN_REAL_DATA is not set")
def test_the_published_example_is_read_and_written(tmp_path: Path) -> None:
    (root,) = (Path(os.environ["LUMEN_REAL_DATA"]) / "sinus" / "1").glob("_start_*")
    data = read_training_data(root)
    assert (len(data.frame_index), len(data.points), len(data.observation_point)) == (381, 26230, 158793)
    assert data.direction == "world_from_cam"
    assert len(data.selected_index) == 381
    pixels, depth = data.project(data.observation_point, data.observation_view)
    assert inside_mask(pixels, depth, data.mask).mean() >= 0.999
    write_training_data(data, tmp_path)
    again = read_training_data(tmp_path)
    np.testing.assert_allclose(again.cam_from_world, data.cam_from_world, atol=1e-9)
    np.testing.assert_array_equal(again.observation_view, data.observation_view)


def replace_first(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def zero_quaternion(path: Path) -> None:
    lines = path.read_text().splitlines()
    start = lines.index("    orientation:")
    lines[start + 1 : start + 5] = [f"      {axis}: 0.0" for axis in "xyzw"]
    path.write_text("\n".join(lines))


def drop_last_line(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def repeat_first_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[0], *lines[2:]]) + "\n")


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def empty_cloud(path: Path) -> None:
    PlyData([PlyElement.describe(np.zeros(0, [(axis, "f4") for axis in "xyz"]), "vertex")]).write(str(path))


def small_mask(path: Path) -> None:
    cv2.imwrite(str(path), np.full((30, 40), 255, np.uint8))
