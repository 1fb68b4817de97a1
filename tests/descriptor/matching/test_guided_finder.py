"""Descriptors refined by flow, on a plane with known correspondences beyond the range of flow."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.flow.flow_finder import FlowFinder
from descriptor.matching.combined_finder import CombinedFinder, directions_by, growing_offsets
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.matching.guided_finder import CellMotion, _moves_with_others, cell_motion, smooth_motion
from descriptor.matching.matcher import SearchableFrame
from known_plane import CELLS, FRAMES, Plane, moved
from pipeline.data.training_data import inside_mask


@pytest.mark.parametrize("target", [1, 5, FRAMES - 1])
def test_points_are_found_near_and_far_with_subpixel_accuracy(plane: Plane, target: int) -> None:
    found, places = plane.guided.find(0, plane.pixels, target)
    truth = moved(plane.data, 0, target, plane.pixels)
    shown = inside_mask(truth, np.ones(len(truth)), cv2.erode(plane.data.mask, np.ones((21, 21), np.uint8)))
    assert shown.sum() > 200 and found[shown].mean() > 0.7
    assert np.median(np.linalg.norm(places[found] - truth[found], axis=1)) < 0.3


def test_cells_move_with_the_plane_and_only_found_cells_have_motion(plane: Plane) -> None:
    first, second = plane.described[0], plane.described[FRAMES - 1]
    assert first is not None and second is not None
    motion = cell_motion(TorchSearch(), first, second)
    assert motion.found_share > 0.5
    assert not motion.moved[~motion.found].any()
    frame = first.described.frame
    starts = np.argwhere(motion.found)[:, ::-1] * 2 + 0.5
    truth = frame.network_from_image(moved(plane.data, 0, FRAMES - 1, frame.image_from_network(starts))) - starts
    assert np.median(np.linalg.norm(motion.moved[motion.found] - truth, axis=1)) < 0.7
    assert np.median(np.linalg.norm(smooth_motion(motion)[motion.found] - truth, axis=1)) < 0.4


def test_gaps_are_filled_from_their_surroundings() -> None:
    moving = np.full((20, 30, 2), 3.0, np.float32)
    found = np.ones((20, 30), bool)
    found[4:9, 18:27] = False
    moving[~found] = 0
    assert np.abs(smooth_motion(CellMotion(moving, found, 0.9)) - 3.0).max() < 0.05
    assert not smooth_motion(CellMotion(np.zeros_like(moving), np.zeros_like(found), 0.0)).any()


def test_an_isolated_match_is_rejected_and_a_group_is_kept() -> None:
    moving = np.full((20, 30, 2), 3.0, np.float32)
    moving[10, 10] = 15
    moving[12:18, 20:28] = -6
    moving[0, 0] = (3, 60)
    counts = _moves_with_others(moving, np.ones((20, 30), bool))
    assert not counts[10, 10] and not counts[0, 0]
    assert counts[14, 24] and counts[:9, 1:].all()
    alone = np.zeros((20, 30), bool)
    alone[5, 5] = True
    assert not _moves_with_others(moving, alone).any()


def test_frames_that_share_nothing_have_no_points_in_common(plane: Plane) -> None:
    # Unrelated descriptors.
    generator = torch.Generator().manual_seed(0)
    second = plane.described[3]
    assert second is not None
    noise = functional.normalize(torch.randn(12, *CELLS, generator=generator), dim=0)
    changed = DescriptorMap(noise, second.described.mask, second.described.frame)
    plane.described._held[3] = SearchableFrame.of(changed, TorchSearch())
    found, _ = plane.guided.find(0, plane.pixels, 3)
    assert not found.any()


def test_no_points_and_unreadable_frames_have_no_matches(plane: Plane, tmp_path: Path) -> None:
    assert not len(plane.guided.find(0, plane.pixels[:0], 3)[0])
    plane.data.image_paths[5].write_bytes(b"")
    found, places = plane.guided.find(0, plane.pixels, 5)
    assert not found.any() and places.shape == plane.pixels.shape


def test_the_number_of_cached_frames_is_bounded(tmp_path: Path) -> None:
    plane = Plane(tmp_path / "plane", held=2)
    for row in (0, 1, 0, 2, 0, 1):
        assert plane.described[row] is not None
    assert plane.descriptor.asked == [0, 1, 2, 1]
    assert len(plane.described._held) == 2


def test_frames_far_from_the_current_frame_are_dropped_first(tmp_path: Path) -> None:
    plane = Plane(tmp_path / "plane", held=3)
    plane.described.work_on(4)
    for row in (4, 5, 9, 9, 8, 5, 4, 9):
        assert plane.described[row] is not None
    assert plane.descriptor.asked == [4, 5, 9, 8, 9]


def test_flow_takes_precedence_and_a_point_is_found_once_per_frame(plane: Plane) -> None:
    rows = list(range(1, FRAMES))
    flow = FlowFinder(plane.frames, directions_by([1, 2], FRAMES))
    alone = {row: len(which) for row, which, _ in flow(0, plane.pixels)}
    assert set(alone) == {1, 2}
    seen: dict[int, list[int]] = {}
    for row, which, places in CombinedFinder(flow, plane.guided, lambda row: rows)(0, plane.pixels):
        assert len(which) == len(places)
        seen.setdefault(row, []).extend(which.tolist())
    assert set(seen) == set(rows)
    assert all(len(set(which)) == len(which) for which in seen.values())
    assert all(len(seen[row]) >= count for row, count in alone.items())


def test_offsets_grow_and_stay_inside_the_video() -> None:
    offsets = growing_offsets(1, 20, 1.5)
    assert offsets[:3] == [1, 2, 3] and offsets[-1] <= 20
    assert (np.diff(offsets) > 0).all() and (np.diff(np.diff(offsets)) >= 0).all()
    later, earlier = directions_by(offsets, 10)(4)
    assert later == [5, 6, 7, 8] and list(earlier) == [3, 2, 1, 0]
    assert growing_offsets(5, 4, 1.5) == []
