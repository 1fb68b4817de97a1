"""The loss against the paper's formula, and its gradients against numerical ones."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from descriptor.fcdensenet import response_loss as module
from descriptor.fcdensenet.response_loss import blend, corners, interpolate, response_loss


def unit(rows: int, channels: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, channels, generator=generator, dtype=torch.float64), dim=1)


def published(source: Tensor, target: Tensor, true_index: Tensor, scale: float, threshold: float) -> Tensor:
    response = 0.5 * source @ target.T + 0.5
    heat = torch.exp(scale * (response - threshold))
    heat = heat / heat.sum(dim=1, keepdim=True)
    return -torch.log(heat[torch.arange(len(source)), true_index]).mean()


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_it_equals_the_papers_loss_for_any_threshold(threshold: float) -> None:
    source, target = unit(11), unit(300, seed=1)
    truth = torch.randint(0, 300, (11,), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        response_loss(source, target[truth], target, 20.0), published(source, target, truth, 20.0, threshold)
    )


def test_tiling_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = unit(50), unit(300, seed=1)
    whole = response_loss(source, target[:50], target, 20.0)
    monkeypatch.setattr(module, "_TILE_LOGITS", 700)
    torch.testing.assert_close(response_loss(source, target[:50], target, 20.0), whole)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_gradients_equal_numerical_gradients(weight: float) -> None:
    inputs = [unit(5, 4).requires_grad_(), unit(5, 4, 1).requires_grad_(), unit(40, 4, 2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b, c: response_loss(a, b, c, 20.0, weight), inputs)


def test_a_subset_of_pixels_approximates_all() -> None:
    source, target = unit(200), unit(40_000, seed=1)
    truth = target[:200]
    every = response_loss(source, truth, target, 20.0)
    some = response_loss(source, truth, target[::4], 20.0, 4.0)
    assert abs(float(every - some)) < 0.05


def test_a_peak_between_sampled_pixels_is_penalised() -> None:
    # The loss is non-negative for any subset of the pixels.
    source = unit(6)
    others = -source
    assert float(response_loss(source, source, others, 100.0, 4.0)) >= 0


def test_no_points_have_zero_loss_and_gradients() -> None:
    target = unit(30).requires_grad_()
    loss = response_loss(unit(0), unit(0), target, 20.0)
    loss.backward()
    assert float(loss) == 0
    assert target.grad is not None and not target.grad.any()


def test_the_largest_scale_stays_finite_in_single_precision() -> None:
    source = unit(3).float()
    assert torch.isfinite(response_loss(source, source, -source, module.MAX_MATCHING_SCALE))
    with pytest.raises(ValueError, match="matching_scale"):
        response_loss(source, source, source, module.MAX_MATCHING_SCALE + 1)


def test_a_position_between_pixels_is_a_soft_label_of_four_pixels() -> None:
    source, target = unit(5), unit(12, seed=1)
    index, share = corners(torch.tensor([[1.2, 0.9]] * 5, dtype=torch.float64), 3, 4)
    loss = response_loss(source, blend(target[index], share), target, 20.0)
    logits = 0.5 * 20.0 * source @ target.T
    label = torch.zeros(5, 12, dtype=torch.float64).scatter_add_(1, index, share)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, label))


def test_interpolation_at_a_pixels_centre_is_that_pixel() -> None:
    values = unit(12, 5).reshape(3, 4, 5)
    found = interpolate(values, torch.tensor([[2.5, 1.5], [0.5, 0.5], [3.5, 2.5]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack([values[1, 2], values[0, 0], values[2, 3]]))


def test_interpolation_is_linear_between_centres_and_clamped_at_the_border() -> None:
    values = torch.zeros(2, 2, 2, dtype=torch.float64)
    values[..., 0] = 1
    values[:, 1, 1] = 4
    found = interpolate(values, torch.tensor([[0.75, 1.0], [1.9, -3.0]], dtype=torch.float64))
    torch.testing.assert_close(found, functional.normalize(torch.tensor([[1.0, 1.0], [1.0, 4.0]]).double(), dim=1))
