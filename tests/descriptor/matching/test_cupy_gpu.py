"""The CuPy engine on a GPU; needs a GPU that PyTorch and CuPy can use."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.engines.choice import choose_engine, usable_cupy
from descriptor.matching.engines.cupy_search import CupySearch
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.network_frame import NetworkFrame
from pipeline.errors import LumenError

GPU = torch.device("cuda", 0)
ROUNDING = 2e-3


@pytest.fixture(scope="module")
def engine() -> CupySearch:
    try:
        return usable_cupy(GPU if torch.cuda.is_available() else torch.device("cpu"))
    except LumenError as problem:
        pytest.skip(str(problem))


def random_map(height: int, width: int, channels: int, dtype: torch.dtype = torch.float32) -> DescriptorMap:
    generator = torch.Generator().manual_seed(height)
    values = functional.normalize(torch.randn(channels, height, width, generator=generator), dim=0)
    mask = torch.rand(height, width, generator=generator) > 0.2
    frame = NetworkFrame((width, height), (width, height), (0, 0), (height, width))
    return DescriptorMap(values.to(GPU, dtype), mask, frame)


def queries(count: int, channels: int) -> Tensor:
    return functional.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(1)), dim=1).to(GPU)


def check(engine: CupySearch, wanted: Tensor, searched: DescriptorMap) -> None:
    found = engine.best(wanted, engine.prepare(searched))
    torch_engine = TorchSearch()
    truth = torch_engine.best(wanted, torch_engine.prepare(searched))
    assert searched.mask.flatten()[found.cell.cpu()].all()
    product = (wanted.double() * searched.values.double().flatten(1).T[found.cell]).sum(dim=1)
    assert (product >= truth.score.double() - ROUNDING).all()
    torch.testing.assert_close(found.score.double(), product, atol=ROUNDING, rtol=0)
    assert (found.cell == truth.cell).float().mean() > 0.95


@pytest.mark.parametrize("size", [(2, 5), (13, 1), (31, 45), (96, 96), (256, 320)])
@pytest.mark.parametrize("channels", [8, 107, 256])
def test_cells_are_the_best_within_half_precision(engine: CupySearch, size: tuple[int, int], channels: int) -> None:
    check(engine, queries(5001, channels), random_map(*size, channels))


def test_both_directions_at_once_equal_separate_searches(engine: CupySearch) -> None:
    prepared = [engine.prepare(random_map(*size, 256)) for size in ((96, 320), (130, 170))]
    for way, own, other in zip(engine.both_ways(*prepared), (0, 1), (1, 0), strict=True):
        alone = engine.best(prepared[own].values[: len(prepared[own].cells)], prepared[other])
        assert torch.equal(way.cell, alone.cell)


def test_half_precision_maps_and_no_points(engine: CupySearch) -> None:
    searched = random_map(64, 80, 128, torch.float16)
    check(engine, queries(300, 128).half(), searched)
    assert engine.best(queries(0, 128), engine.prepare(searched)).cell.shape == (0,)


def test_work_runs_on_pytorchs_stream(engine: CupySearch) -> None:
    searched = random_map(96, 96, 64)
    expected = engine.best(queries(2000, 64), engine.prepare(searched)).cell
    stream = torch.cuda.Stream(GPU)
    for _ in range(20):
        with torch.cuda.stream(stream):
            # The searched data exist only after the stream has executed the copy.
            busy = torch.randn(4000, 4000, device=GPU)
            values = searched.values.clone().zero_()
            for _ in range(5):
                busy = busy @ busy / 4000
            values += searched.values + 0 * busy.sum()
            moved = DescriptorMap(values, searched.mask, searched.frame)
            found = engine.best(queries(2000, 64), engine.prepare(moved)).cell
        stream.synchronize()
        assert torch.equal(found, expected)


def test_auto_chooses_cupy(engine: CupySearch) -> None:
    assert choose_engine("auto", GPU).name == engine.name
