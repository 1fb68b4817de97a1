"""Muon's steps: equal size in every direction, identical after a restart."""

import copy

import pytest
import torch

from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from descriptor.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(10, 270), (46, 46), (30, 10), (2, 9)])
def test_all_singular_values_become_close_to_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape) * 1e-3
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    # Directions are unchanged: both have the same U V in the singular value decomposition.
    assert float((found * matrix).sum()) > 0.7 * float(torch.linalg.svdvals(matrix).sum())


def test_a_zero_gradient_is_no_step() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


def test_the_step_size_is_independent_of_the_gradient_size() -> None:
    sizes = []
    for scale in (1e-4, 1e4):
        torch.manual_seed(0)
        kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
        kernel.grad = scale * torch.randn(8, 4, 3, 3)
        Muon([kernel], lr=1.0).step()
        sizes.append(float(kernel.detach().square().mean().sqrt()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)
    # The typical RMS of a step of Adam.
    assert 0.1 < sizes[0] < 0.3


def test_it_minimises_and_resumes_from_its_state() -> None:
    torch.manual_seed(0)
    goal, start = torch.randn(6, 20), torch.randn(6, 20)

    def descend(kernel: torch.nn.Parameter, optimizer: Muon, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (kernel - goal).square().sum().backward()
            optimizer.step()

    whole = torch.nn.Parameter(start.clone())
    descend(whole, Muon([whole], lr=0.1), 60)
    assert float((whole.detach() - goal).norm()) < 0.3 * float((start - goal).norm())

    parts = torch.nn.Parameter(start.clone())
    first = Muon([parts], lr=0.1)
    descend(parts, first, 25)
    second = Muon([parts], lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    descend(parts, second, 35)
    assert torch.equal(parts, whole)


def test_muon_updates_the_hidden_kernels() -> None:
    network = FCDenseNet(NetworkShape(32, 4))
    kernels = network.hidden_kernels()
    convolutions = [name for name, value in network.named_parameters() if value.ndim == 4]
    assert len(kernels) == len(convolutions) - 2
    assert all(each is not network.firstconv.weight and each is not network.finalConv.weight for each in kernels)
