"""Muon's steps: of equal size in every direction, the same after a restart."""

import copy

import pytest
import torch

from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from descriptor.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(10, 270), (46, 46), (30, 10), (2, 9)])
def test_all_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape) * 1e-3
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    # Directions stay: U V of the singular value decomposition is the same for both.
    assert float((found * matrix).sum()) > 0.7 * float(torch.linalg.svdvals(matrix).sum())


def test_a_gradient_of_nothing_is_no_step() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


def test_the_size_of_a_step_does_not_depend_on_that_of_the_gradient() -> None:
    sizes = []
    for scale in (1e-4, 1e4):
        torch.manual_seed(0)
        kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
        kernel.grad = scale * torch.randn(8, 4, 3, 3)
        Muon([kernel], lr=1.0).step()
        sizes.append(float(kernel.detach().square().mean().sqrt()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)
    # As large as a step of Adam's is found to be.
    assert 0.1 < sizes[0] < 0.3


def test_it_goes_down_and_goes_on_from_its_state() -> None:
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


def test_kernels_between_the_first_and_the_last_are_its_own() -> None:
    network = FCDenseNet(NetworkShape(32, 4))
    kernels = network.hidden_kernels()
    convolutions = [name for name, value in network.named_parameters() if value.ndim == 4]
    assert len(kernels) == len(convolutions) - 2
    assert all(each is not network.firstconv.weight and each is not network.finalConv.weight for each in kernels)
