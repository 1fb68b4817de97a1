"""The flesh of a whole video: where references come from, and that a killed run goes on to the same."""

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


def test_references_go_where_least_is_covered_until_enough_is(tmp_path: Path) -> None:
    video = PlaneVideo()
    lattice = video.lattice()
    tracks, points = run(video, tmp_path / "densify", ReferenceRules(FRAMES, 0.7), lattice)
    assert lattice.coverage().min() >= 0.7
    used = [reference for reference, _ in video.asked]
    assert len(used) == len(set(used)) < FRAMES
    assert used[0] == FRAMES // 2 + FRAMES % 2 or used[0] == 8
    assert len(points) == tracks.track_count == len(np.unique(tracks.track))


def test_no_more_references_than_allowed(tmp_path: Path) -> None:
    video = PlaneVideo()
    run(video, tmp_path / "densify", ReferenceRules(2, 1.0))
    assert len(video.asked) == 2


def test_a_killed_run_goes_on_to_the_same(tmp_path: Path) -> None:
    rules = ReferenceRules(4, 1.0)
    undisturbed = run(PlaneVideo(), tmp_path / "once", rules)
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
    np.testing.assert_array_equal(points, undisturbed[1])
    np.testing.assert_array_equal(tracks.track, undisturbed[0].track)
    np.testing.assert_array_equal(tracks.pixels, undisturbed[0].pixels)


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    rules = ReferenceRules(3, 1.0)
    once = run(PlaneVideo(), tmp_path / "densify", rules)
    part = sorted((tmp_path / "densify").glob("*.npz"))[0]
    part.write_bytes(part.read_bytes()[:100])
    again = run(PlaneVideo(), tmp_path / "densify", rules)
    np.testing.assert_array_equal(once[1], again[1])


def test_frames_that_cannot_be_read_or_have_no_pose_begin_nothing(tmp_path: Path) -> None:
    video = PlaneVideo()
    video.poses[3] = np.nan
    folder = tmp_path / "densify"
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
def test_the_spread_holds_each_row_once(count: int) -> None:
    assert sorted(_spread(list(range(count)))) == list(range(count))


def test_the_first_of_the_spread_lie_evenly() -> None:
    assert _spread(list(range(16)))[:4] == [8, 0, 12, 4]
