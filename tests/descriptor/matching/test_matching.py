"""Search engines against the reference in double precision, and matches against known positions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import cupy_stand_in
from descriptor.base import DescriptorMap
from descriptor.matching.engines import cupy_search, torch_search
from descriptor.matching.engines.coarse_to_fine import CoarseToFineSearch
from descriptor.matching.engines.cupy_search import CupySearch
from descriptor.matching.engines.reference_search import ReferenceSearch
from descriptor.matching.engines.search import Best, SearchEngine
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.matching.matcher import SearchableFrame, match, summit
from descriptor.network_frame import NetworkFrame

ENGINES = ("reference", "torch", "coarse_to_fine", "cupy")
# Maximum difference between an engine's product and the best: the spacing of half-precision numbers near 1.
ROUNDING = {"cupy": 1e-3}


@pytest.fixture(scope="session")
def cupy_engine(tmp_path_factory: pytest.TempPathFactory) -> CupySearch | None:
    """The CuPy engine with its kernel compiled for the CPU."""
    if cupy_stand_in.COMPILER is None:
        return None

    class OnCpu(CupySearch):
        @contextlib.contextmanager
        def _on_torchs_stream(self, device: torch.device) -> Iterator[None]:
            yield

    folder: Path = tmp_path_factory.mktemp("kernel")
    return OnCpu(cupy_stand_in.build(cupy_search.KERNEL, folder))


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> SearchEngine:
    name = getattr(request, "param", "torch")
    if name == "cupy":
        found = request.getfixturevalue("cupy_engine")
        return found if found is not None else pytest.skip("there is no C++ compiler")
    # Enough blocks for an exact result.
    made = {"reference": ReferenceSearch, "torch": TorchSearch, "coarse_to_fine": exhaustive_coarse_to_fine}
    return made[name]()


def exhaustive_coarse_to_fine() -> CoarseToFineSearch:
    return CoarseToFineSearch(block=3, kept=10_000)


every_engine = pytest.mark.parametrize("engine", ENGINES, indirect=True)
every_exhaustive_engine = pytest.mark.parametrize("engine", ("reference", "torch", "cupy"), indirect=True)


def described(values: Tensor, mask: Tensor | None = None) -> DescriptorMap:
    height, width = values.shape[1:]
    mask = torch.ones(height, width, dtype=torch.bool) if mask is None else mask
    return DescriptorMap(values, mask, NetworkFrame((width, height), (width, height), (0, 0), (height, width)))


def random_map(height: int, width: int, channels: int = 8, seed: int = 0) -> DescriptorMap:
    generator = torch.Generator().manual_seed(seed)
    values = functional.normalize(torch.randn(channels, height, width, generator=generator), dim=0)
    return described(values, torch.rand(height, width, generator=generator) > 0.3)


def smooth_map(height: int, width: int, shift: tuple[float, float] = (0.0, 0.0)) -> DescriptorMap:
    """Descriptors of a surface shifted by `shift` (right, down): waves of several lengths in both directions."""
    row, column = torch.meshgrid(torch.arange(height) - shift[1], torch.arange(width) - shift[0], indexing="ij")
    lengths = (11.0, 23.0, 61.0)
    waves = [wave(2 * torch.pi * axis / length) for axis in (row, column) for length in lengths for wave in TWO_WAVES]
    return described(functional.normalize(torch.stack(waves), dim=0))


TWO_WAVES = (torch.sin, torch.cos)


def queries(count: int, channels: int = 8, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, channels, generator=generator), dim=1)


@every_engine
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 1), (31, 45), (64, 80)])
def test_best_cell_and_score_equal_the_reference(engine: SearchEngine, size: tuple[int, int]) -> None:
    searched = random_map(*size)
    wanted = queries(300)
    found, truth = engine.best(wanted, engine.prepare(searched)), reference(wanted, searched)
    rounding = ROUNDING.get(engine.name, 0.0)
    torch.testing.assert_close(found.score, truth.score, atol=1e-6 + rounding, rtol=0, equal_nan=True)
    if not rounding:
        assert torch.equal(found.cell, truth.cell)
    elif (found.cell >= 0).all():
        assert searched.mask.flatten()[found.cell].all()
        product = (wanted * searched.values.flatten(1).T[found.cell]).sum(dim=1)
        assert (product >= truth.score - rounding).all()
        assert (found.cell == truth.cell).float().mean() > 0.95


def reference(wanted: Tensor, searched: DescriptorMap) -> Best:
    engine = ReferenceSearch()
    return engine.best(wanted, engine.prepare(searched))


@every_engine
def test_only_tissue_is_found(engine: SearchEngine) -> None:
    searched = random_map(20, 30)
    # The best cell of each descriptor shows no tissue.
    hidden = (~searched.mask).flatten().nonzero()[:, 0]
    wanted = searched.values.flatten(1).T[hidden]
    found = engine.best(wanted, engine.prepare(searched))
    assert searched.mask.flatten()[found.cell].all()


@every_engine
def test_without_tissue_nothing_is_found(engine: SearchEngine) -> None:
    searched = described(random_map(6, 7).values, torch.zeros(6, 7, dtype=torch.bool))
    found = engine.best(queries(4), engine.prepare(searched))
    assert (found.cell == -1).all() and torch.isnan(found.score).all()
    assert np.isnan(summit(queries(4), searched, found.cell)).all()
    source = random_map(6, 7)
    frames = SearchableFrame.of(source, engine), SearchableFrame.of(searched, engine)
    matches = match(engine, frames[0], np.array([[0.5, 0.5], [3.5, 2.5]]), frames[1])
    assert np.isnan(matches.target).all() and not matches.consistent(100.0).any()


@every_engine
def test_no_points_have_no_matches(engine: SearchEngine) -> None:
    frame = SearchableFrame.of(random_map(6, 7), engine)
    found = match(engine, frame, np.zeros((0, 2)), frame)
    assert found.target.shape == (0, 2) and found.score.shape == found.return_px.shape == (0,)


@every_exhaustive_engine
def test_the_first_of_equal_cells_is_chosen(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_search, "_CPU_TILE", (4, 5))
    monkeypatch.setattr(cupy_search, "_TILE", (4, 8))
    values = torch.zeros(4, 6, 8)
    values[0] = 1
    searched = described(values)
    searched.mask[0, :3] = False
    wanted = functional.one_hot(torch.zeros(9, dtype=torch.int64), 4).float()
    assert (engine.best(wanted, engine.prepare(searched)).cell == 3).all()


@pytest.mark.parametrize("engine", ["torch", "cupy"], indirect=True)
@pytest.mark.parametrize("tile", [(9, 24), (17, 40), (1000, 10_000)])
def test_tiling_does_not_change_the_result(
    engine: SearchEngine, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, wanted = random_map(23, 29), queries(50)
    whole = engine.best(wanted, engine.prepare(searched))
    monkeypatch.setattr(torch_search, "_CPU_TILE", tile)
    monkeypatch.setattr(cupy_search, "_TILE", tile)
    tiled = engine.best(wanted, engine.prepare(searched))
    assert torch.equal(tiled.cell, whole.cell)
    torch.testing.assert_close(tiled.score, whole.score)


@every_engine
def test_half_precision_finds_the_same_clear_matches(engine: SearchEngine) -> None:
    exact = smooth_map(40, 52)
    half = described(exact.values.half(), exact.mask)
    wanted = exact.values.flatten(1).T[::17]
    found = engine.best(wanted, engine.prepare(half))
    steps = (found.cell - torch.arange(40 * 52)[::17]).abs()
    assert ((steps <= 1) | (steps == 52)).float().mean() > 0.99


@every_engine
def test_a_moved_surface_is_matched_with_subcell_accuracy_in_both_directions(engine: SearchEngine) -> None:
    shift = (2.3, -1.4)
    frames = [SearchableFrame.of(smooth_map(48, 64, each), engine) for each in ((0.0, 0.0), shift)]
    keypoints = np.random.default_rng(0).uniform((10, 10), (54, 38), (200, 2))
    found = match(engine, frames[0], keypoints, frames[1])
    np.testing.assert_allclose(found.target, keypoints + shift, atol=0.3)
    assert found.consistent(1.0).all()
    assert (found.score > 0.95).all()


@every_engine
def test_points_missing_from_the_target_fail_the_reverse_check(engine: SearchEngine) -> None:
    source, target = smooth_map(48, 64), smooth_map(48, 64)
    target.mask[:, 32:] = False
    frames = SearchableFrame.of(source, engine), SearchableFrame.of(target, engine)
    keypoints = np.random.default_rng(0).uniform((40, 4), (60, 44), (100, 2))
    assert not match(engine, frames[0], keypoints, frames[1]).consistent(3.0).any()


def test_a_few_blocks_agree_with_exhaustive_search_on_smooth_descriptors() -> None:
    source, target = smooth_map(64, 80), smooth_map(64, 80, (3.7, 2.2))
    keypoints = np.random.default_rng(0).uniform((8, 8), (68, 52), (500, 2))
    places = []
    for engine in (TorchSearch(), CoarseToFineSearch()):
        frames = SearchableFrame.of(source, engine), SearchableFrame.of(target, engine)
        places.append(match(engine, frames[0], keypoints, frames[1]).target)
    near = np.linalg.norm(places[0] - places[1], axis=1) <= 1
    assert near.mean() > 0.98


@pytest.mark.parametrize("engine", ["cupy"], indirect=True)
@pytest.mark.parametrize("tile", [(24, 16), (60, 40), (10_000, 10_000)])
def test_both_directions_at_once_equal_separate_searches(
    engine: CupySearch, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy_search, "_TILE", tile)
    maps = [random_map(11, 13, seed=seed) for seed in (0, 1)]
    prepared = [engine.prepare(each) for each in maps]
    found = engine.both_ways(*prepared)
    for way, own, other in zip(found, (0, 1), (1, 0), strict=True):
        wanted = maps[own].values.flatten(1).T[maps[own].mask.flatten()]
        alone = engine.best(wanted, prepared[other])
        assert torch.equal(way.cell, alone.cell)
        torch.testing.assert_close(way.score, alone.score)
    nothing = engine.prepare(described(maps[0].values, torch.zeros(11, 13, dtype=torch.bool)))
    there, back = engine.both_ways(prepared[0], nothing)
    assert (there.cell == -1).all() and len(there.cell) == len(prepared[0].cells) and not len(back.cell)


@pytest.mark.parametrize("engine", ["torch", "cupy"], indirect=True)
def test_ties_in_half_precision_are_not_biased(engine: SearchEngine) -> None:
    # Half precision barely distinguishes neighbours.
    row, column = torch.meshgrid(torch.arange(40) / 30, torch.arange(52) / 30, indexing="ij")
    waves = [wave(axis) for axis in (row, column) for wave in TWO_WAVES]
    searched = described(functional.normalize(torch.stack(waves), dim=0))
    inside = torch.arange(40 * 52).reshape(40, 52)[4:-4, 4:-4].flatten()
    found = engine.best(searched.values.flatten(1).T[inside], engine.prepare(searched)).cell
    assert abs((found % 52 - inside % 52).float().mean()) < 0.1
    assert abs((found // 52 - inside // 52).float().mean()) < 0.1


def test_the_maximum_lies_between_cells() -> None:
    # Unit vectors on a circle: the response to angle 0.3 peaks at 0.3.
    angles = torch.tensor([[-1.0, 0.0, 1.0, 2.0]]).double() * 0.5
    searched = described(torch.stack([angles.cos(), angles.sin()]))
    wanted = torch.tensor([[np.cos(0.15), np.sin(0.15)]])
    np.testing.assert_allclose(summit(wanted, searched, torch.tensor([1])), [[1.5 + 0.3, 0.5]], atol=0.01)
    # The offset is limited to half a cell, however far the maximum.
    np.testing.assert_allclose(summit(wanted, searched, torch.tensor([2])), [[2.0, 0.5]], atol=0.01)
    # Neighbours without tissue or beyond the edge do not affect the maximum.
    searched.mask[0, 1] = False
    np.testing.assert_allclose(summit(wanted, searched, torch.tensor([2])), [[2.5, 0.5]])
    np.testing.assert_allclose(summit(wanted, searched, torch.tensor([0])), [[0.5, 0.5]])
