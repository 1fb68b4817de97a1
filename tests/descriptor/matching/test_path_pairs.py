"""Frame pairs matched for mapping by each policy, on a plane that every frame shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from descriptor.matching.config import MatchConfig
from descriptor.matching.match_stage import PointFinders, _descriptor_rows, match_stage
from known_plane import FRAMES, Plane, moved
from pipeline.command.config import configure
from pipeline.data.tracks import Tracks
from pipeline.paths import MappingPaths
from pipeline.report import StageReport
from sfm.mapping.sift import tracks_from_matches

REACH = 3


def match(plane: Plane, run: Path, pairs: Any) -> tuple[Tracks, set[tuple[int, int]]]:
    """The tracks, and the pairs that were used."""
    config = configure(MatchConfig, pairs=pairs, temporal_range=REACH, max_feature_detection=300, skip_interval=2)
    paths = MappingPaths(run)
    paths.correspondences.mkdir(parents=True, exist_ok=True)
    matcher = PointFinders(plane.frames, plane.guided, False, None, tracks_from_matches)
    match_stage(config, matcher, paths, 0, StageReport("match"))
    used = set()
    for file in paths.correspondences.iterdir():
        used |= {(int(file.stem), int(second)) for second in np.load(file)["second"]}
    return Tracks.load(paths.tracks), used


@pytest.mark.parametrize("pairs", ["sequential", "exhaustive", "ddl", "similar"])
def test_matches_form_tracks_of_points_on_the_plane(plane: Plane, tmp_path: Path, pairs: str) -> None:
    tracks, used = match(plane, tmp_path / pairs, pairs)
    reach = max(second - first for first, second in used)
    assert (reach <= REACH) == (pairs == "sequential")
    assert {(row, row + 1) for row in range(FRAMES - 1)} <= used
    first, second = (tracks.select(tracks.frame == row) for row in (0, 2))
    _, place, other = np.intersect1d(first.track, second.track, return_indices=True)
    truth = moved(plane.data, 0, 2, first.pixels[place].astype(np.float64))
    assert len(place) > 40
    assert np.median(np.linalg.norm(second.pixels[other] - truth, axis=1)) < 4


def test_pairs_matched_before_a_kill_are_not_matched_again(
    plane: Plane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once, _ = match(plane, tmp_path / "run", "exhaustive")
    monkeypatch.setattr("descriptor.matching.match_stage.match_from", None)
    again, _ = match(plane, tmp_path / "run", "exhaustive")
    for name in ("frame", "track", "pixels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name))


def test_a_killed_run_resumes_to_the_same_result(plane: Plane, tmp_path: Path) -> None:
    once, _ = match(plane, tmp_path / "run", "similar")
    for first in range(4, FRAMES):
        (MappingPaths(tmp_path / "run").correspondences / f"{first:06d}.npz").unlink()
    again, _ = match(plane, tmp_path / "run", "similar")
    for name in ("frame", "track", "pixels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name))


def test_keyframes_are_searched_near_far_and_where_the_camera_returns() -> None:
    keyframes = list(range(0, 400, 5))
    asked = []

    class Similarity:
        def between(self, row: int, others: list[int]) -> np.ndarray:
            return np.array([0.9 - abs(row - other) / 1000 for other in others])

        def most_similar(self, row: int, among: list[int], most: int, apart: int, least: float) -> list[int]:
            assert least == pytest.approx(0.78)
            asked.append((row, among))
            return among[-2:]

    similarity: Any = Similarity()
    near = set(_descriptor_rows(400, keyframes, None, everywhere=False)(100))
    assert {95, 105, 110, 220} <= near and max(near) == 220 and min(near) == 20 and 100 not in near
    assert set(_descriptor_rows(400, keyframes, similarity, everywhere=False)(100)) == near | {390, 395}
    assert asked == [(100, list(range(225, 400, 5)))]
    everywhere = set(_descriptor_rows(400, keyframes, None, everywhere=True)(100))
    assert everywhere == near | set(range(95, 106)) - {100}
