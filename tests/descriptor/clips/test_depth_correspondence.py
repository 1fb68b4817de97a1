"""Correspondences from depth, against the ray-traced ground truth of a phantom and a synthetic plane."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest

import descriptor.clips.depth_correspondence
from data_prep import phantom
from data_prep.phantom import PhantomConfig
from data_prep.simulation.endoscope import directions_from_img
from data_prep.simulation.training_data import write_phantom_training_data
from data_prep.simulation.truth import PhantomTruth
from descriptor.clips.clip import PointPairs
from descriptor.clips.depth_correspondence import DepthCorrespondence
from descriptor.clips.sparse_correspondence import on_tissue
from descriptor.network_frame import NetworkFrame, common_size
from pipeline.data.depth_files import write_depth, write_depth_scale
from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import write_training_data
from pipeline.errors import LumenError
from pipeline.paths import TrainingPaths
from textured_plane import FOCAL, HEIGHT, WIDTH, write_plane

STEP = 1e-4
PHANTOMS: dict[str, dict[str, Any]] = {
    "pinhole": {"anatomy": "colon", "seed": 1},
    "fisheye": {"anatomy": "sinus", "fisheye": True, "seed": 2},
}


@dataclass(frozen=True)
class Case:
    """A phantom as training data, at a network's size."""

    truth: PhantomTruth
    data: TrainingData
    root: Path
    frame: NetworkFrame

    @property
    def mask(self) -> np.ndarray:
        return self.frame.cut_mask(self.data.mask)

    @property
    def pinhole(self) -> pycolmap.Camera:
        return pycolmap.Camera(
            model="PINHOLE", width=self.data.width, height=self.data.height, params=self.data.pinhole[0]
        )

    def correspondence(self, stride: int = 1) -> DepthCorrespondence:
        return DepthCorrespondence(self.data, self.root, self.frame, self.mask, stride)

    def lattice(self) -> np.ndarray:
        """Network px (N, 2): centre of the recorded pixel that contains the centre of each network pixel."""
        rows, columns = np.nonzero(self.mask)
        centres = np.column_stack([columns, rows]).astype(np.float64) + 0.5
        recorded = np.floor(self.frame.image_from_network(centres)) + 0.5
        return self.frame.network_from_image(recorded)

    def true(self, source: int, target: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ray-traced positions of network pixels (N, 2), and whether they are visible and on tissue."""
        rays = directions_from_img(self.pinhole, self.frame.image_from_network(pixels))
        frame_a, frame_b = (int(self.data.frame_index[row]) for row in (source, target))
        recorded = np.asarray(self.truth.camera.img_from_cam(rays), np.float64)
        there, visible = self.truth.correspondence(frame_a, frame_b, recorded)
        moved = np.full_like(there, np.nan)
        known = np.isfinite(there).all(axis=1)
        moved[known] = self.pinhole.img_from_cam(directions_from_img(self.truth.camera, there[known]))
        moved = self.frame.network_from_image(moved)
        return moved, visible & on_tissue(moved, self.mask)


@pytest.fixture(scope="module", params=PHANTOMS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("phantom")
    config = PhantomConfig(
        folder / "phantom", frames=6, size=(400, 320), fps=15, depth=False, **PHANTOMS[request.param]
    )
    phantom.run(config)
    root = folder / "1" / "phantom"
    data = write_phantom_training_data(config.output, root)
    frame = NetworkFrame.of_mask(data.mask, 4.0, common_size([data.mask], 4.0, 32))
    return Case(PhantomTruth.load(config.output), data, root, frame)


PAIRS = [(3, 4), (4, 3), (1, 4), (5, 3)]


def place(pixels: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(pixel) for pixel in np.round(pixels, 6).tolist()]


@pytest.mark.parametrize("pair", PAIRS)
def test_pixels_match_the_ground_truth(case: Case, pair: tuple[int, int]) -> None:
    found = case.correspondence().between(*pair)
    moved, visible = case.true(*pair, found.source)
    assert len(found) > 1500
    assert np.linalg.norm(found.target - moved, axis=1)[visible].max() < 0.05


@pytest.mark.parametrize("pair", PAIRS)
def test_visibility_matches_the_ground_truth_except_at_depth_edges(case: Case, pair: tuple[int, int]) -> None:
    pixels = case.lattice()
    moved, visible = case.true(*pair, pixels)
    shared = set(place(case.correspondence().between(*pair).source))
    found = np.array([pixel in shared for pixel in place(pixels)])
    assert len(shared) == found.sum()
    false, missed = found & ~visible, visible & ~found
    assert false.mean() < 0.001
    assert missed.mean() < 0.025
    # All differences are at pixels where the target's depth is discontinuous or bends.
    clear = ~beside_an_edge(case, pair[1], moved)
    assert clear[visible].mean() > 0.85
    assert ((false | missed) & clear).sum() < 0.001 * clear.sum()


def beside_an_edge(case: Case, row: int, pixels: np.ndarray) -> np.ndarray:
    """Which network px (N, 2) lie within two recorded pixels of a depth discontinuity, a bend, or unknown depth."""
    path = TrainingPaths(case.root).depth(int(case.data.frame_index[row]))
    steps = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.float64)
    inverse = np.where(steps > 0, 1 / np.maximum(steps, 1), 0)
    bend = np.zeros_like(inverse)
    bend[1:-1] = np.abs(inverse[2:] - 2 * inverse[1:-1] + inverse[:-2])
    bend[:, 1:-1] = np.maximum(bend[:, 1:-1], np.abs(inverse[:, 2:] - 2 * inverse[:, 1:-1] + inverse[:, :-2]))
    edge = cv2.dilate((bend > 0.04 * inverse).astype(np.uint8), np.ones((5, 5), np.uint8))
    index = np.floor(np.nan_to_num(case.frame.image_from_network(pixels), nan=-1)).astype(int)
    index = np.clip(index, 0, [case.data.width - 1, case.data.height - 1])
    return edge[index[:, 1], index[:, 0]] > 0


def test_a_source_is_the_centre_of_the_recorded_pixel_nearest_to_a_network_pixel(case: Case) -> None:
    source = case.correspondence().between(3, 4).source
    recorded = case.frame.image_from_network(source)
    np.testing.assert_allclose(recorded - np.floor(recorded), 0.5, atol=1e-9)
    assert np.abs(source - np.floor(source) - 0.5).max() <= 0.25 + 1e-9
    assert len(set(place(source))) == len(source)


def test_forward_and_backward_is_the_identity(case: Case) -> None:
    there = case.correspondence().between(3, 5)
    there = PointPairs(there.source[::11], there.target[::11])
    back = case.correspondence().between(5, 3)
    nearest = ((there.target[:, None] - back.source[None, :]) ** 2).sum(axis=2).argmin(axis=1)
    apart = np.linalg.norm(there.target - back.source[nearest], axis=1)
    moved = np.linalg.norm(there.source - back.target[nearest], axis=1)
    close = apart < 0.3
    assert close.sum() > 50
    assert np.median(moved[close]) < 0.4


def test_a_stride_selects_a_lattice(case: Case) -> None:
    every, few = (case.correspondence(stride).between(3, 4) for stride in (1, 3))
    assert 0.8 / 9 < len(few) / len(every) < 1.2 / 9
    pairs = {(*a, *b) for a, b in zip(place(every.source), place(every.target), strict=True)}
    assert {(*a, *b) for a, b in zip(place(few.source), place(few.target), strict=True)} <= pairs


@pytest.fixture
def plane(tmp_path: Path) -> tuple[TrainingData, Path]:
    """The textured plane with depth, and its folder."""
    root = tmp_path / "1" / "plane"
    data = write_plane(root, frames=4)
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    for index, pose, (fx, fy, cx, cy) in zip(data.frame_index, data.cam_from_world, data.pinhole, strict=True):
        # The plane is z = 0 in the world: its normal in the camera is the last column of the rotation.
        rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones_like(rows)], axis=-1)
        depth = pose[:, 2] @ pose[:, 3] / (rays @ pose[:, 2])
        write_depth(TrainingPaths(root).depth(int(index)), depth, STEP)
    write_depth_scale(TrainingPaths(root).depth_scale, STEP)
    return data, root


def on_plane(plane: tuple[TrainingData, Path]) -> DepthCorrespondence:
    data, root = plane
    frame = NetworkFrame.of_mask(data.mask, 2.0, (96, 128))
    return DepthCorrespondence(data, root, frame, frame.cut_mask(data.mask))


def change_depth(plane: tuple[TrainingData, Path], row: int, box: tuple[slice, slice], factor: float) -> None:
    path = TrainingPaths(plane[1]).depth(int(plane[0].frame_index[row]))
    depth = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.float64) * STEP
    depth[box] *= factor
    write_depth(path, depth, STEP)


def inside(pixels: np.ndarray, box: tuple[slice, slice], margin: float) -> np.ndarray:
    """Which network px (N, 2) lie in a box of recorded rows and columns, enlarged by a margin."""
    rows, columns = box
    x, y = (2 * pixels).T
    return (
        (x > columns.start - margin)
        & (x < columns.stop + margin)
        & (y > rows.start - margin)
        & (y < rows.stop + margin)
    )


BOX = (slice(70, 110), slice(100, 150))


@pytest.mark.parametrize("factor", [0.7, 0.98, 1.02, 0.0])
def test_points_that_disagree_with_the_target_depth_are_hidden(plane: tuple[TrainingData, Path], factor: float) -> None:
    before = on_plane(plane).between(0, 1)
    change_depth(plane, 1, BOX, factor)
    after = on_plane(plane).between(0, 1)
    assert inside(before.target, BOX, 0).sum() > 300
    assert not inside(after.target, BOX, -1).any()
    far = before.target[~inside(before.target, BOX, 3)]
    assert set(place(far)) <= set(place(after.target))


@pytest.mark.parametrize("factor", [1.5, 0.7])
def test_beside_an_edge_only_the_nearer_surface_is_visible(plane: tuple[TrainingData, Path], factor: float) -> None:
    before = on_plane(plane).between(0, 1)
    change_depth(plane, 1, (slice(0, HEIGHT), slice(128, WIDTH)), factor)
    after = set(place(on_plane(plane).between(0, 1).target))
    # Half of the plane remains. The edge lies between its last pixel centre and the first of the other half.
    x = 2 * before.target[:, 0]
    seen = x <= (128.5 if factor > 1 else 127.5)
    assert ((x > 127.6) & (x < 128.4)).sum() > 20
    assert after == set(place(before.target[seen]))


def test_no_point_is_visible_at_a_depth_between_two_surfaces(plane: tuple[TrainingData, Path]) -> None:
    change_depth(plane, 1, (slice(0, HEIGHT), slice(0, WIDTH)), 0.97)
    for row in range(0, HEIGHT, 8):
        for column in range(8 * (row // 8 % 2), WIDTH, 16):
            change_depth(plane, 1, (slice(row, row + 8), slice(column, column + 8)), 1.03 / 0.97)
    assert len(on_plane(plane).between(0, 1)) == 0


def test_a_difference_within_the_tolerance_hides_nothing(plane: tuple[TrainingData, Path]) -> None:
    before = on_plane(plane).between(0, 1)
    change_depth(plane, 1, BOX, 1.003)
    assert len(on_plane(plane).between(0, 1)) == len(before)


def test_a_source_of_unknown_depth_is_omitted(plane: tuple[TrainingData, Path]) -> None:
    change_depth(plane, 0, BOX, 0.0)
    found = on_plane(plane).between(0, 1)
    assert len(found) > 1000
    assert not inside(found.source, BOX, 0).any()


@pytest.mark.parametrize("pair", [(0, 3), (3, 0), (1, 1)])
def test_every_plane_point_on_tissue_is_shared_at_its_true_position(
    plane: tuple[TrainingData, Path], pair: tuple[int, int]
) -> None:
    data, _ = plane
    frame = NetworkFrame.of_mask(data.mask, 2.0, (96, 128))
    mask = frame.cut_mask(data.mask)
    rows, columns = np.nonzero(mask)
    recorded = 2.0 * np.column_stack([columns, rows]) + 1.5
    source, target = data.cam_from_world[[*pair]]
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    rays = np.column_stack([(recorded - middle) / FOCAL, np.ones(len(recorded))]) @ source[:, :3]
    centre = -source[:, 3] @ source[:, :3]
    points = centre - centre[2] / rays[:, 2:] * rays
    in_camera = points @ target[:, :3].T + target[:, 3]
    landed: np.ndarray = in_camera[:, :2] / in_camera[:, 2:] * FOCAL + middle
    expected = frame.network_from_image(landed)
    shared = on_tissue(expected, mask)
    found = on_plane(plane).between(*pair)
    assert np.abs(found.source - recorded[shared] / 2).max() < 1e-9
    assert np.abs(found.target - expected[shared]).max() < 1e-3


def test_points_behind_the_target_are_not_shared(plane: tuple[TrainingData, Path]) -> None:
    data, root = plane
    rotated = data.cam_from_world.copy()
    rotated[1] = np.diag([-1.0, 1.0, -1.0]) @ rotated[1]
    away = TrainingData(**{**vars(data), "cam_from_world": rotated})
    assert len(on_plane((away, root)).between(0, 1)) == 0


def test_depth_requires_its_folder(plane: tuple[TrainingData, Path], tmp_path: Path) -> None:
    data, root = plane
    assert DepthCorrespondence.is_known_for(root)
    # Another model has another world frame.
    write_training_data(data, root, number=1)
    assert not DepthCorrespondence.is_known_for(root / "colmap" / "1")
    without = tmp_path / "1" / "without"
    write_plane(without, frames=3)
    assert not DepthCorrespondence.is_known_for(without)
    assert not DepthCorrespondence.is_known_for(tmp_path)
    with pytest.raises(LumenError, match="has no depth maps"):
        on_plane((data, without))


def damage_by_removal(path: Path) -> None:
    path.unlink()


def damage_by_truncation(path: Path) -> None:
    path.write_bytes(b"\x89PNG")


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_size(path: Path) -> None:
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH - 1), 9, np.uint16))


def damage_by_depth_of_bits(path: Path) -> None:
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 9, np.uint8))


def damage_by_colour(path: Path) -> None:
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 9, np.uint16))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_by_removal, "is missing"),
        (damage_by_truncation, "is damaged"),
        (damage_by_emptying, "is damaged"),
        (damage_by_size, f"has {WIDTH - 1}x{HEIGHT} pixels"),
        (damage_by_depth_of_bits, "16 bits"),
        (damage_by_colour, "16 bits"),
    ],
)
def test_a_bad_depth_map_is_named(plane: tuple[TrainingData, Path], damage: Any, message: str) -> None:
    data, root = plane
    path = TrainingPaths(root).depth(int(data.frame_index[1]))
    damage(path)
    correspondence = on_plane(plane)
    assert len(correspondence.between(0, 2)) > 0
    for pair in ((0, 1), (1, 0)):
        with pytest.raises(LumenError, match=message) as caught:
            correspondence.between(*pair)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", ["{}", "world_units_per_step: 0", "world_units_per_step: true", "- 1", "a: [", None]
)
def test_a_bad_scale_is_named(plane: tuple[TrainingData, Path], content: str | None) -> None:
    path = TrainingPaths(plane[1]).depth_scale
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(LumenError, match=r"scale\.yaml"):
        on_plane(plane)


def test_the_number_of_cached_depth_maps_is_bounded(
    plane: tuple[TrainingData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, root = plane
    kept = on_plane(plane)
    monkeypatch.setattr(descriptor.clips.depth_correspondence, "_CACHE_BYTES", 1)
    bounded = on_plane(plane)
    for correspondence in (kept, bounded):
        correspondence.between(0, 1)
        correspondence.between(2, 3)
    for index in data.frame_index:
        TrainingPaths(root).depth(int(index)).unlink()
    assert len(kept.between(0, 1)) > 0
    assert len(bounded.between(2, 3)) > 0
    with pytest.raises(LumenError, match="is missing"):
        bounded.between(0, 1)
