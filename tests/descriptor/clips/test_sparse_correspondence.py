"""Shared points of two frames from given visibility lists, and their positions checked by image content."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from descriptor.clips.clip import PointPairs
from descriptor.clips.data_root import DataSettings, load_clips
from descriptor.clips.sparse_correspondence import SparseCorrespondence
from descriptor.network_frame import NetworkFrame
from pipeline.data.training_data import TrainingData
from textured_plane import write_plane


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    return write_plane(tmp_path / "1" / "plane", frames=9, points=120)


def correspondence(data: TrainingData, overlap: int, kept: np.ndarray | None = None) -> SparseCorrespondence:
    frame = NetworkFrame.of_mask(data.mask, 2.0, (96, 128))
    kept = np.ones(len(data.points), bool) if kept is None else kept
    return SparseCorrespondence(data, frame, frame.cut_mask(data.mask), kept, overlap)


def only(data: TrainingData, listed: dict[int, list[int]]) -> TrainingData:
    """The data with the given observing views for some points; other points are removed."""
    chosen = sorted(listed)
    return replace(
        data,
        points=data.points[chosen],
        observation_point=np.repeat(np.arange(len(chosen)), [len(listed[point]) for point in chosen]),
        observation_view=np.concatenate([listed[point] for point in chosen]),
    )


def central(data: TrainingData, count: int) -> list[int]:
    return np.argsort(np.linalg.norm(data.points, axis=1))[:count].tolist()


def test_a_point_is_visible_up_to_the_overlap_from_its_observation(data: TrainingData) -> None:
    first, second = central(data, 2)
    some = only(data, {first: [0], second: [4, 5]})
    count = {first: 0, second: 1} if first < second else {first: 1, second: 0}
    assert count  # Rows of the two points; the following checks count points only.
    assert [len(correspondence(some, 0).between(4, row)) for row in range(9)] == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert [len(correspondence(some, 2).between(2, row)) for row in range(9)] == [1, 1, 2, 1, 1, 1, 1, 1, 0]


def test_the_overlap_counts_frames_of_the_video_not_rows(data: TrainingData) -> None:
    (point,) = central(data, 1)
    sparse = replace(only(data, {point: [4]}), frame_index=np.arange(9) * 10)
    assert [len(correspondence(sparse, 10).between(4, row)) for row in range(9)] == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_points_outside_the_mask_or_pruned_are_not_shared(data: TrainingData) -> None:
    everything = correspondence(data, 20)
    pairs = everything.between(0, 8)
    assert 20 < len(pairs) < len(data.points)
    none = correspondence(data, 20, kept=np.zeros(len(data.points), bool))
    assert len(none.between(0, 8)) == 0


def test_swapping_the_frames_swaps_the_points(data: TrainingData) -> None:
    there, back = correspondence(data, 20).between(1, 7), correspondence(data, 20).between(7, 1)
    np.testing.assert_array_equal(there.source, back.target)
    np.testing.assert_array_equal(there.target, back.source)


def test_both_points_show_the_same_tissue(tmp_path: Path, data: TrainingData) -> None:
    settings = DataSettings(image_downsampling=2.0, network_downsampling=32, cache_root=tmp_path / "cache")
    (clip,) = load_clips([tmp_path / "1" / "plane"], settings)
    pairs = clip.correspondence.between(0, 8)
    shades = [_shade(clip.images[row], places) for row, places in ((0, pairs.source), (8, pairs.target))]
    correct = np.abs(shades[0] - shades[1]).mean()
    moved = _shade(clip.images[8], pairs.target + 0.5)
    assert correct < 5
    assert correct < 0.6 * np.abs(shades[0] - moved).mean()


def test_points_with_the_largest_colour_change_are_pruned(tmp_path: Path, data: TrainingData) -> None:
    wrong = np.arange(0, len(data.points), 10)
    # These points are observed where other tissue is visible.
    points = data.points.copy()
    points[wrong] += [0.35, 0.35, 0.8]
    frame = NetworkFrame.of_mask(data.mask, 2.0, (96, 128))
    images = np.stack([frame.cut(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)) for path in data.image_paths])
    mask = frame.cut_mask(data.mask)
    share = 1 - len(wrong) / len(points)
    moved = replace(data, points=points)
    pruned = SparseCorrespondence.pruned(moved, images, frame, mask, 0, share)
    every = SparseCorrespondence.pruned(moved, images, frame, mask, 0, 1.0)
    left = {tuple(place) for place in pruned.between(3, 4).source}
    places = frame.network_from_image(moved.project(wrong, np.full(len(wrong), 3))[0])
    gone = sum(tuple(place) not in left for place in places)
    assert len(left) < len(every.between(3, 4))
    assert gone >= 0.5 * len(wrong)


def _shade(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    maps = (places - 0.5).astype(np.float32)
    return cv2.remap(image, maps[:, :1], maps[:, 1:], cv2.INTER_LINEAR)[:, 0].astype(float)


def test_subsets_keep_correspondences() -> None:
    places = np.arange(40.0).reshape(20, 2)
    some = PointPairs(places, places + 100).take(7, np.random.default_rng(0))
    assert len(some) == 7
    np.testing.assert_array_equal(some.source + 100, some.target)
