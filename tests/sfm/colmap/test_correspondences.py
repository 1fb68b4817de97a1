"""Selection of the tracks to map, and the COLMAP database, read back with pycolmap and with SQLite."""

import sqlite3
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from pipeline.data.tracks import Tracks
from pipeline.errors import LumenError
from sfm.colmap.database import Pair, read_database, write_database
from sfm.evaluation.alignment import compare_paths
from sfm.mapping.incremental import (
    correspondences_from_tracks,
    map_images,
    pair_keyframes,
    select_longest_tracks,
    verify_pairs,
)
from synthetic_video import SyntheticVideo, make_camera, make_video, project

Keypoints = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(10, points_per_frame=150)


def names_of(tracks: Tracks) -> list[str]:
    return [f"{index:08d}.jpg" for index in tracks.frame_index]


def write_video(video: SyntheticVideo, database: Path) -> dict[Pair, np.ndarray]:
    """Write the tracks of a video as the mapping does, and return the matches."""
    rows = range(len(video.tracks.frame_index))
    keypoints, matches = correspondences_from_tracks(video.tracks, rows, names_of(video.tracks), 30)
    camera = pycolmap.Camera(video.camera.todict())
    camera.has_prior_focal_length = True
    write_database(database, camera, keypoints, matches)
    return matches


def keypoints_in(database: Path) -> dict[int, tuple[str, np.ndarray]]:
    """Read without pycolmap: image ID → name and (N, 2) px."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT image_id, name, rows, cols, data FROM keypoints JOIN images USING (image_id)")
        return {
            number: (name, np.frombuffer(data, np.float32).reshape(count, columns)[:, :2])
            for number, name, count, columns, data in rows
        }


def matches_in(database: Path, table: str = "matches") -> dict[tuple[int, int], np.ndarray]:
    """Read without pycolmap: two image IDs → (M, 2)."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(f"SELECT pair_id, rows, data FROM {table} WHERE rows > 0").fetchall()
    # https://colmap.github.io/database.html
    numbers = [((pair_id - pair_id % 2147483647) // 2147483647, pair_id % 2147483647) for pair_id, _, _ in rows]
    found = [np.frombuffer(data, np.uint32).reshape(count, 2) for _, count, data in rows]
    return dict(zip(numbers, found, strict=True))


def some_correspondences() -> tuple[Keypoints, dict[Pair, np.ndarray]]:
    rng = np.random.default_rng(0)
    keypoints = {
        name: rng.uniform(0, 500, (count, 2)).astype(np.float32) for name, count in (("b", 4), ("a", 3), ("c", 0))
    }
    return keypoints, {("b", "a"): np.array([[0, 2], [3, 0]])}


def test_keypoints_and_matches_read_back_exactly(tmp_path: Path) -> None:
    keypoints, matches = some_correspondences()
    write_database(tmp_path / "new" / "database.db", make_camera(), keypoints, matches)
    read_keypoints, read_matches = read_database(tmp_path / "new" / "database.db")
    assert list(read_keypoints) == ["b", "a", "c"]
    for name in keypoints:
        np.testing.assert_array_equal(read_keypoints[name], keypoints[name])
    assert read_matches.keys() == matches.keys()
    for pair in matches:
        np.testing.assert_array_equal(read_matches[pair], matches[pair])


def test_the_camera_and_its_focal_length_prior_are_written(tmp_path: Path) -> None:
    for known in (False, True):
        camera = make_camera("OPENCV_FISHEYE")
        camera.has_prior_focal_length = known
        write_database(tmp_path / "database.db", camera, *some_correspondences())
        with pycolmap.Database.open(tmp_path / "database.db") as database:
            (read,) = database.read_all_cameras()
        assert read.model_name == "OPENCV_FISHEYE" and read.has_prior_focal_length is known
        assert (read.width, read.height) == (640, 512)
        np.testing.assert_array_equal(read.params, camera.params)


def test_the_matches_of_a_reversed_pair_are_swapped(tmp_path: Path) -> None:
    """COLMAP orders a pair so that the image with the smaller ID comes first."""
    keypoints, _ = some_correspondences()
    rows = np.array([[2, 0], [0, 3]])
    write_database(tmp_path / "database.db", make_camera(), keypoints, {("a", "b"): rows})
    (found,) = matches_in(tmp_path / "database.db").values()
    np.testing.assert_array_equal(found, rows[:, ::-1])
    _, read = read_database(tmp_path / "database.db")
    assert list(read) == [("b", "a")]
    np.testing.assert_array_equal(read["b", "a"], rows[:, ::-1])


def test_a_pair_without_matches_is_not_read_back(tmp_path: Path) -> None:
    keypoints, matches = some_correspondences()
    matches["a", "c"] = np.zeros((0, 2), np.int64)
    write_database(tmp_path / "database.db", make_camera(), keypoints, matches)
    assert list(read_database(tmp_path / "database.db")[1]) == [("b", "a")]


def test_an_existing_database_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "database.db"
    write_database(path, make_camera(), *some_correspondences())
    write_database(path, make_camera(), {"x": np.ones((1, 2), np.float32)}, {})
    keypoints, matches = read_database(path)
    assert list(keypoints) == ["x"] and not matches


def test_a_folder_at_the_path_of_the_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "database.db").mkdir()
    with pytest.raises(LumenError, match="cannot write .*database.db"):
        write_database(tmp_path / "database.db", make_camera(), *some_correspondences())


@pytest.mark.parametrize("row", [[4, 0], [0, 3], [-1, 0], [0, -1]])
def test_a_match_with_an_invalid_keypoint_index_is_refused(tmp_path: Path, row: list[int]) -> None:
    keypoints, _ = some_correspondences()
    with pytest.raises(ValueError, match="a match of b and a has a keypoint index outside"):
        write_database(tmp_path / "database.db", make_camera(), keypoints, {("b", "a"): np.array([[0, 0], row])})


def test_each_keypoint_in_the_file_is_the_projection_of_its_point(tmp_path: Path, video: SyntheticVideo) -> None:
    """Within float32 rounding, so that a shift of half a pixel fails."""
    write_video(video, tmp_path / "database.db")
    found = list(keypoints_in(tmp_path / "database.db").values())
    assert [name for name, _ in found] == names_of(video.tracks)
    for row, (_, pixels) in enumerate(found):
        points = video.points[video.tracks.track[video.tracks.in_frame(row)]]
        expected = project(video.camera, video.cam_from_world[[row] * len(points)], points)
        np.testing.assert_allclose(pixels, expected, atol=5e-5)


def test_each_match_in_the_file_links_observations_of_one_point(tmp_path: Path, video: SyntheticVideo) -> None:
    write_video(video, tmp_path / "database.db")
    numbers = list(keypoints_in(tmp_path / "database.db"))
    found = matches_in(tmp_path / "database.db")
    assert len(found) == len(pair_keyframes(10))
    for (first, second), rows in found.items():
        in_first, in_second = (
            video.tracks.track[video.tracks.in_frame(numbers.index(number))] for number in (first, second)
        )
        np.testing.assert_array_equal(in_first[rows[:, 0]], in_second[rows[:, 1]])
        assert len(rows) == len(np.intersect1d(in_first, in_second))
        assert rows.min() == 0


def test_an_exact_scene_is_verified_and_mapped_exactly(tmp_path: Path, video: SyntheticVideo) -> None:
    """The pose errors are below a thousandth of those that a shift of half a pixel would cause."""
    matches = write_video(video, tmp_path / "database.db")
    verify_pairs(tmp_path / "database.db", list(matches), tmp_path / "log", seed=0)
    verified = matches_in(tmp_path / "database.db", "two_view_geometries")
    assert sum(map(len, verified.values())) > 0.99 * sum(map(len, matches.values()))
    names = names_of(video.tracks)
    found = map_images(tmp_path / "database.db", names, tmp_path / "work", tmp_path / "log", seed=0)
    assert found is not None
    model = pycolmap.Reconstruction(found)
    assert model.num_reg_images() == 10
    model.update_point_3d_errors()
    assert max(point.error for point in model.points3D.values()) < 0.05
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    difference = compare_paths(np.array([poses[name] for name in names]), video.cam_from_world)
    assert difference.position.max() < 1e-5 * difference.path_length
    assert difference.rotation_deg.max() < 5e-5


def test_verification_drops_wrong_matches(tmp_path: Path, video: SyntheticVideo) -> None:
    keypoints, matches = correspondences_from_tracks(video.tracks, [0, 4], ["a", "b"], 30)
    rows = matches["a", "b"].copy()
    wrong = np.arange(len(rows)) % 4 == 0
    rows[wrong, 1] = np.roll(rows[wrong, 1], 1)
    write_database(tmp_path / "database.db", video.camera, keypoints, {("a", "b"): rows})
    verify_pairs(tmp_path / "database.db", [("a", "b")], tmp_path / "log", seed=0)
    (found,) = matches_in(tmp_path / "database.db", "two_view_geometries").values()
    kept = {tuple(row) for row in found.tolist()}
    is_kept = np.array([tuple(row) in kept for row in rows.tolist()])
    assert is_kept[~wrong].mean() > 0.99
    # Wrong matches along the epipolar line cannot be detected.
    assert is_kept[wrong].mean() < 0.3


def test_keyframes_are_paired_with_near_and_some_far_keyframes() -> None:
    pairs = pair_keyframes(40)
    assert len(pairs) == len(set(pairs)) and all(0 <= first < second < 40 for first, second in pairs)
    assert [second for first, second in pairs if first == 0] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert [second for first, second in pairs if first == 37] == [38, 39]
    assert pair_keyframes(1) == []


def short_tracks() -> Tracks:
    """Five frames. Tracks 0 to 3 start in frame 0 and have 3, 2, 4 and 3 views; track 4 starts in frame 1 and has 3."""
    seen = {0: [0, 1, 2], 1: [0, 1], 2: [0, 1, 2, 4], 3: [0, 2, 4], 4: [1, 2, 4]}
    pairs = sorted((row, track) for track, rows in seen.items() for row in rows)
    frame, track = np.array(pairs).T
    return Tracks(10 * np.arange(5), frame, track, np.random.default_rng(0).random((len(frame), 2), np.float32))


@pytest.mark.parametrize(("points", "chosen"), [(1, [2, 4]), (2, [0, 2, 4]), (9, [0, 2, 3, 4])])
def test_the_longest_tracks_of_each_keyframe_are_selected(points: int, chosen: list[int]) -> None:
    tracks = short_tracks()
    selected = select_longest_tracks(tracks, np.arange(5), points)
    assert np.unique(selected.track).tolist() == chosen
    assert selected.lengths()[chosen].tolist() == tracks.lengths()[chosen].tolist()


def test_only_observations_in_keyframes_count() -> None:
    selected = select_longest_tracks(short_tracks(), np.array([0, 2, 4]), 9)
    assert np.unique(selected.frame).tolist() == [0, 2, 4]
    assert np.unique(selected.track).tolist() == [2, 3]


def test_pairs_that_share_few_points_are_left_out() -> None:
    tracks = short_tracks()
    names = ["f0", "f1", "f2", "f4"]
    keypoints, matches = correspondences_from_tracks(tracks, [0, 1, 2, 4], names, 3)
    assert [len(keypoints[name]) for name in names] == [4, 4, 4, 3]
    assert set(matches) == {("f0", "f1"), ("f0", "f2"), ("f1", "f2"), ("f2", "f4")}
    # The tracks in row 1 are 0, 1, 2 and 4, those in row 2 are 0, 2, 3 and 4.
    np.testing.assert_array_equal(matches["f1", "f2"], [[0, 0], [2, 1], [3, 3]])
