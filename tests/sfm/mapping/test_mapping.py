"""Mapping resumes from the newest complete snapshot after a kill, and logs to a file only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

import sfm.mapping.incremental
from pipeline.progress import ProgressBar
from sfm.colmap.database import read_database, write_database
from sfm.evaluation.alignment import compare_paths
from sfm.mapping.incremental import colmap_log, frame_names, map_images, verify_pairs, write_keyframes
from synthetic_video import SyntheticVideo, keypoints_and_matches, make_video

FRAMES = 16
_SNAPSHOT_FRAMES = 4


class Killed(Exception):
    """Simulates the end of the process."""


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return make_video(FRAMES, points_per_frame=150)


@pytest.fixture(scope="module")
def verified(video: SyntheticVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("verified") / "database.db"
    names, matches = keypoints_and_matches(video.tracks)
    keypoints = {name: video.tracks.pixels[video.tracks.in_frame(row)] for row, name in enumerate(names)}
    write_database(database, video.camera, keypoints, matches)
    verify_pairs(database, list(matches), database.with_name("log"), seed=0)
    return database


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts passed to the progress bar, one entry per call; snapshots are frequent."""
    counts: list[int] = []
    monkeypatch.setattr(ProgressBar, "update", lambda self, count=1: counts.append(count))
    monkeypatch.setattr(sfm.mapping.incremental, "_SNAPSHOT_FRAMES", _SNAPSHOT_FRAMES)
    return counts


def map_all(video: SyntheticVideo, database: Path, folder: Path) -> pycolmap.Reconstruction:
    names, _ = keypoints_and_matches(video.tracks)
    model = map_images(database, names, folder, folder / "log", seed=0)
    assert model == folder / "model"
    return pycolmap.Reconstruction(model)


def map_until(
    frames: int, video: SyntheticVideo, database: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Map until a number of frames is registered, and stop there as if killed."""
    done = 0

    def update(bar: ProgressBar, count: int = 1) -> None:
        nonlocal done
        done += count
        if done >= frames:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ProgressBar, "update", update)
        map_all(video, database, folder)


def assert_complete(model: pycolmap.Reconstruction, video: SyntheticVideo) -> None:
    names, _ = keypoints_and_matches(video.tracks)
    assert sorted(image.name for image in model.images.values() if image.has_pose) == names
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    difference = compare_paths(np.array([poses[name] for name in names]), video.cam_from_world)
    # Bundle adjustment of float32 pixels is not exact.
    assert difference.ate < 1e-3 * difference.path_length


def assert_resumed(counts: list[int], before: int) -> None:
    """COLMAP reports an initial pair even when it continues a model."""
    assert counts == [2] + [1] * (FRAMES - before)


def snapshots_in(folder: Path) -> list[Path]:
    return sorted((folder / "snapshots").iterdir())


def registered_in(snapshot: Path) -> int:
    return pycolmap.Reconstruction(snapshot).num_reg_images()


def test_the_bar_counts_every_frame_once(
    video: SyntheticVideo, verified: Path, tmp_path: Path, counts: list[int]
) -> None:
    assert_complete(map_all(video, verified, tmp_path), video)
    assert counts == [2] + [1] * (FRAMES - 2)


def test_a_killed_mapping_resumes_from_its_snapshot(
    video: SyntheticVideo, verified: Path, tmp_path: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    map_until(13, video, verified, tmp_path, monkeypatch)
    before = registered_in(snapshots_in(tmp_path)[-1])
    assert 13 - _SNAPSHOT_FRAMES <= before <= 13
    assert_complete(map_all(video, verified, tmp_path), video)
    assert_resumed(counts, before)


def truncate(snapshot: Path, share: float) -> None:
    """Truncate a snapshot as a kill does: COLMAP writes the points last."""
    points = snapshot / "points3D.bin"
    points.write_bytes(points.read_bytes()[: int(share * points.stat().st_size)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_a_truncated_snapshot_is_skipped(
    video: SyntheticVideo,
    verified: Path,
    tmp_path: Path,
    counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    map_until(13, video, verified, tmp_path, monkeypatch)
    *_, older, newest = snapshots_in(tmp_path)
    before = registered_in(older)
    assert before < registered_in(newest)
    truncate(newest, share)
    assert_complete(map_all(video, verified, tmp_path), video)
    assert_resumed(counts, before)


@pytest.mark.parametrize("missing", ["cameras.bin", "images.bin", "points3D.bin", "frames.bin", "rigs.bin"])
def test_a_snapshot_without_one_of_its_files_is_skipped(
    video: SyntheticVideo,
    verified: Path,
    tmp_path: Path,
    counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    map_until(9, video, verified, tmp_path, monkeypatch)
    for snapshot in snapshots_in(tmp_path):
        (snapshot / missing).unlink()
    assert_complete(map_all(video, verified, tmp_path), video)
    assert counts == [2] + [1] * (FRAMES - 2)


def test_mapping_starts_from_a_given_pair(video: SyntheticVideo, verified: Path, tmp_path: Path) -> None:
    """The database has no matches between frames more than two apart, so such a pair cannot initialize a model."""
    names, _ = keypoints_and_matches(video.tracks)
    log = tmp_path / "log"
    found = map_images(verified, names, tmp_path / "near", log, 0, pair=(names[9], names[7]))
    assert found is not None and pycolmap.Reconstruction(found).num_reg_images() == FRAMES
    assert map_images(verified, names, tmp_path / "far", log, 0, pair=(names[9], names[5])) is None


def test_mapping_continues_a_model(video: SyntheticVideo, verified: Path, tmp_path: Path, counts: list[int]) -> None:
    names, _ = keypoints_and_matches(video.tracks)
    partial = map_images(verified, names[3:9], tmp_path / "partial", tmp_path / "log", 0)
    assert partial is not None
    before = pycolmap.Reconstruction(partial)
    assert sorted(image.name for image in before.images.values() if image.has_pose) == names[3:9]
    counts.clear()
    found = map_images(verified, names, tmp_path / "work", tmp_path / "log", 0, initial_model=partial)
    assert found is not None
    assert_complete(pycolmap.Reconstruction(found), video)
    assert_resumed(counts, 6)


KEYFRAMES = np.arange(0, FRAMES, 2)


def keyframes_in(video: SyntheticVideo, folder: Path) -> Path | None:
    return write_keyframes(video.tracks, KEYFRAMES, video.camera, folder / "work", folder / "log", 0)


def map_keyframes(video: SyntheticVideo, database: Path, folder: Path) -> pycolmap.Reconstruction:
    found = map_images(database, frame_names(video.tracks, KEYFRAMES), folder / "work", folder / "log", 0)
    assert found is not None
    return pycolmap.Reconstruction(found)


def test_pairs_are_verified_once(video: SyntheticVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = keyframes_in(video, tmp_path)
    assert database is not None
    before = read_database(database)
    monkeypatch.setattr(sfm.mapping.incremental, "verify_pairs", lambda *_: pytest.fail("verified again"))
    assert keyframes_in(video, tmp_path) == database
    assert read_database(database)[0].keys() == before[0].keys()
    assert map_keyframes(video, database, tmp_path).num_reg_images() == len(KEYFRAMES)


def test_an_interrupted_verification_starts_over(
    video: SyntheticVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sfm.mapping.incremental, "verify_pairs", kill)
        keyframes_in(video, tmp_path)
    database = keyframes_in(video, tmp_path)
    assert database is not None
    assert map_keyframes(video, database, tmp_path).num_reg_images() == len(KEYFRAMES)


def test_keyframes_that_share_nothing_have_no_database(video: SyntheticVideo, tmp_path: Path) -> None:
    alone = replace(video, tracks=video.tracks.select(video.tracks.frame < 1))
    assert keyframes_in(alone, tmp_path) is None


def test_the_camera_is_fixed(video: SyntheticVideo, tmp_path: Path) -> None:
    camera = pycolmap.Camera(video.camera.todict())
    camera.focal_length_x *= 1.05
    wrong = replace(video, camera=camera)
    database = keyframes_in(wrong, tmp_path)
    assert database is not None
    np.testing.assert_array_equal(map_keyframes(wrong, database, tmp_path).cameras[1].params, camera.params)


def test_pycolmap_logs_only_to_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "new" / "pycolmap.log"
    for message in ("first message", "second message"):
        with colmap_log(log):
            pycolmap.logging.info(message)
            pycolmap.logging.error(message.upper())
    content = log.read_text()
    places = [content.index(text) for text in ("first message", "FIRST MESSAGE", "second message", "SECOND MESSAGE")]
    assert places == sorted(places)
    assert [path.name for path in log.parent.iterdir()] == ["pycolmap.log"]
    assert capfd.readouterr() == ("", "")


def test_logging_is_restored_after_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = pycolmap.logging
    before = settings.alsologtostderr, settings.stderrthreshold
    with pytest.raises(ZeroDivisionError), colmap_log(tmp_path / "log"):
        pycolmap.logging.info("inside")
        raise ZeroDivisionError
    assert (settings.alsologtostderr, settings.stderrthreshold) == before
    pycolmap.logging.error("outside")
    assert "outside" in capfd.readouterr().err
    assert "inside" in (tmp_path / "log").read_text() and "outside" not in (tmp_path / "log").read_text()


def test_the_log_contains_neither_the_machine_name_nor_its_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "DOE JANE" / "colmap"
    (tmp_path / "DOE JANE").mkdir()
    for number in range(2):
        with colmap_log(folder / "pycolmap.log"):
            pycolmap.logging.info(f"Loading {folder}/mapping/{number} and {folder.parent}/images: 3/4")
    lines = (folder / "pycolmap.log").read_text().splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        f"Loading mapping/{number} and ../images: 3/4" for number in range(2)
    ]
    assert [path.name for path in folder.iterdir()] == ["pycolmap.log"]


def test_words_that_end_with_a_relative_folder_stay_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with colmap_log(Path("run") / "pycolmap.log"):
        pycolmap.logging.info("run/mapping of the prun/mapping")
    assert Path("run/pycolmap.log").read_text().endswith("] mapping of the prun/mapping\n")
