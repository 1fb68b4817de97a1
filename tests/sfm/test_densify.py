"""Densification of a whole video: choice of reference frames, and resumption after a kill."""

from pathlib import Path

import numpy as np
import pytest

from plane_video import FRAMES, LIMITS, PlaneVideo
from sfm.dense_points import Lattice
from sfm.densify import ReferenceRules, _spread, densify


def run(video: PlaneVideo, folder: Path, rules: ReferenceRules, lattice: Lattice | None = None) -> tuple:
    folder.mkdir(exist_ok=True)
    lattice = lattice or video.lattice()
    everywhere = np.ones((512, 640), bool)
    return densify(video.find, lattice, video.camera, video.poses, LIMITS, rules, lambda row: everywhere, folder)


def test_references_are_added_where_coverage_is_lowest_until_it_is_sufficient(tmp_path: Path) -> None:
    video = PlaneVideo()
    lattice = video.lattice()
    tracks, points = run(video, tmp_path / "dense", ReferenceRules(FRAMES, 0.7), lattice)
    assert lattice.coverage().min() >= 0.7
    used = [reference for reference, _ in video.asked]
    assert len(used) == len(set(used)) < FRAMES
    assert used[0] == FRAMES // 2 + FRAMES % 2 or used[0] == 8
    assert len(points) == tracks.track_count == len(np.unique(tracks.track))


def test_the_number_of_references_is_limited(tmp_path: Path) -> None:
    video = PlaneVideo()
    run(video, tmp_path / "dense", ReferenceRules(2, 1.0))
    assert len(video.asked) == 2


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    rules = ReferenceRules(4, 1.0)
    uninterrupted = run(PlaneVideo(), tmp_path / "once", rules)
    video = PlaneVideo()
    find = video.find

    def killed(reference: int, pixels: np.ndarray):  # type: ignore[no-untyped-def]
        if len(video.asked) == 2:
            raise KeyboardInterrupt
        return find(reference, pixels)

    video.find = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(video, tmp_path / "again", rules)
    video.find = find  # type: ignore[method-assign]
    tracks, points = run(video, tmp_path / "again", rules)
    assert [reference for reference, _ in video.asked] == sorted(
        {reference for reference, _ in video.asked}, key=[reference for reference, _ in video.asked].index
    )
    np.testing.assert_array_equal(points, uninterrupted[1])
    np.testing.assert_array_equal(tracks.track, uninterrupted[0].track)
    np.testing.assert_array_equal(tracks.pixels, uninterrupted[0].pixels)


def test_a_damaged_cache_file_is_computed_again(tmp_path: Path) -> None:
    rules = ReferenceRules(3, 1.0)
    once = run(PlaneVideo(), tmp_path / "dense", rules)
    part = sorted((tmp_path / "dense").glob("*.npz"))[0]
    part.write_bytes(part.read_bytes()[:100])
    again = run(PlaneVideo(), tmp_path / "dense", rules)
    np.testing.assert_array_equal(once[1], again[1])


def test_frames_that_cannot_be_read_or_have_no_pose_are_not_references(tmp_path: Path) -> None:
    video = PlaneVideo()
    video.poses[3] = np.nan
    folder = tmp_path / "dense"
    folder.mkdir()
    everywhere = np.ones((512, 640), bool)
    densify(
        video.find,
        video.lattice(),
        video.camera,
        video.poses,
        LIMITS,
        ReferenceRules(FRAMES, 1.0),
        lambda row: None if row == 5 else everywhere,
        folder,
    )
    assert not {3, 5} & {reference for reference, _ in video.asked}


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_reordering_keeps_each_row_once(count: int) -> None:
    assert sorted(_spread(list(range(count)))) == list(range(count))


def test_the_first_reordered_rows_are_evenly_spread() -> None:
    assert _spread(list(range(16)))[:4] == [8, 0, 12, 4]
