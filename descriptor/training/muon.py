"""Muon: orthogonalised steps, of equal size in every direction of a layer's kernel.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). PyTorch's implementation accepts only
matrices and computes in bfloat16, which is slow on processors without native support.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# Coefficients of the polynomial that moves singular values close to 1 in few iterations (Jordan et al.).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# RMS of a step, matched to Adam's (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2).
_STEP_SIZE = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised before each step.

    Args:
        kernels: parameters of two or more dimensions; all but the first are flattened.
        lr: learning rate, on the scale of Adam's.
        momentum: Nesterov momentum, 0..1.
        weight_decay: decoupled weight decay, as in AdamW.
    """

    def __init__(
        self, kernels: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 1e-2
    ) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is not None:
                    self._change(kernel, kernel.grad, group["lr"], group["momentum"], group["weight_decay"])

    def _change(self, kernel: Tensor, gradient: Tensor, rate: float, momentum: float, weight_decay: float) -> None:
        state = self.state[kernel]
        if not state:
            state["mean"] = torch.zeros_like(kernel)
        mean = state["mean"].lerp_(gradient, 1 - momentum)
        direction = orthogonal(torch.lerp(gradient, mean, momentum).flatten(1))
        kernel.mul_(1 - rate * weight_decay)
        kernel.add_(direction.view_as(kernel), alpha=-rate * _STEP_SIZE * max(direction.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix (M, N) with all singular values moved to about 0.7..1.2 (Newton-Schulz iteration)."""
    first, third, fifth = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if is_tall else matrix
    result = result / (result.norm() + 1e-7)
    for _ in range(_ROUNDS):
        square = result @ result.T
        result = torch.addmm(result, torch.addmm(square, square, square, beta=third, alpha=fifth), result, beta=first)
    return result.T if is_tall else result
