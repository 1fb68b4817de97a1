"""Muon: steps of equal size in every direction that a layer's kernel can change in.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). PyTorch's own takes matrices alone, and
computes in bfloat16, which processors without instructions for it do slowly.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# Of the polynomial that takes singular values near 1 in few rounds (Jordan et al.).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# Mean size of an entry of a step, as Adam has it (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2).
_STEP_SIZE = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal before each step.

    Args:
        kernels: parameters of two or more dimensions; all but the first count as one.
        lr: learning rate, for which that of Adam is right.
        momentum: 0..1, Nesterov's.
        weight_decay: decoupled, as AdamW has it.
    """

    def __init__(
        self, kernels: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 1e-2
    ) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Change each parameter that has a gradient."""
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
    """The matrix (M, N) with all singular values brought near 1, between about 0.7 and 1.2 (Newton-Schulz)."""
    first, third, fifth = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if is_tall else matrix
    result = result / (result.norm() + 1e-7)
    for _ in range(_ROUNDS):
        square = result @ result.T
        result = torch.addmm(result, torch.addmm(square, square, square, beta=third, alpha=fifth), result, beta=first)
    return result.T if is_tall else result
