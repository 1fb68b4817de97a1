"""The relative response loss, computed as a cross-entropy over pixels for thousands of points per pair.

DDL trains descriptors such that the response of a point's descriptor over the target image peaks at the point (Liu et
al., CVPR 2020, eq. 3 and 4). With responses s(p) = 0.5 <d, d_p> + 0.5 and the heatmap
h(p) = softmax_p(scale * (s(p) - threshold)), the threshold and the constant cancel, and -log h(p*) is

    logsumexp_p(z_p) - z_p*,    z_p = 0.5 * scale * <d, d_p>.

Softmax and its gradient are computed tile by tile in one pass; no heatmap is stored.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Logits per tile: 32 MiB in single precision, about the size of a processor's cache.
_TILE_LOGITS = 1 << 23
# exp(-scale) must be a normal number in single precision.
MAX_MATCHING_SCALE = 160.0


def response_loss(
    source: Tensor, at_truth: Tensor, target: Tensor, matching_scale: float, pixels_per_target: float = 1.0
) -> Tensor:
    """-log h(p*), averaged over points.

    Args:
        source: (K, C) descriptors of the points, unit length.
        at_truth: (K, C) descriptors of the target at the points. Between pixels this is the mean of the four
            surrounding descriptors from `blend`, without normalisation: the loss is then the cross-entropy to a soft
            label shared by the four pixels. With normalisation, neighbours could become dissimilar: their mean would
            respond strongly although none of them does.
        target: (P, C) descriptors of the target's pixels, or of a subset that stands for all, unit length.
        matching_scale: 20 in the paper, at most MAX_MATCHING_SCALE.
        pixels_per_target: number of pixels that each row of `target` stands for. If more than one, the true place is
            added to the sum, because a peak between the sampled pixels would otherwise grow without penalty.

    Returns:
        A scalar; 0 without points.

    Raises:
        ValueError: if the scale is not positive, or too large for single precision.
    """
    if not 0 < matching_scale <= MAX_MATCHING_SCALE:
        raise ValueError(f"matching_scale {matching_scale}: choose more than 0, at most {MAX_MATCHING_SCALE}")
    if not len(source):
        return (source.sum() + at_truth.sum() + target.sum()) * 0
    loss: Tensor = _ResponseLoss.apply(source, at_truth, target, 0.5 * matching_scale, float(pixels_per_target))
    return loss


class _ResponseLoss(torch.autograd.Function):
    """The loss and its gradients in one pass, so that each heatmap is computed once and discarded."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, truth: Tensor, target: Tensor, scale: float, weight: float) -> Tensor:
        count = len(source)
        rows = max(1, _TILE_LOGITS // max(1, len(target)))
        to_source, to_target = torch.empty_like(source), torch.zeros_like(target)
        positive = scale * (source * truth).sum(dim=1, keepdim=True)
        # Products of unit vectors bound the logits, so exp is safe without subtracting the maximum.
        own = (positive - scale).exp() if weight > 1 else torch.zeros_like(positive)
        total = -positive.sum()
        for first in range(0, count, rows):
            part = slice(first, first + rows)
            share = torch.addmm(source.new_full((), -scale), source[part], target.T, alpha=scale).exp_()
            mass = share.sum(dim=1, keepdim=True) * weight + own[part]
            total += mass.log().sum()
            torch.mm(share, target, out=to_source[part])
            to_source[part] *= weight / mass
            to_target.addmm_(share.T, source[part] * (weight / mass))
            own[part] /= mass
        to_source += (own - 1) * truth
        factor = scale / count
        ctx.save_for_backward(to_source.mul_(factor), (own - 1) * source * factor, to_target.mul_(factor))
        return total / count + scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        to_source, to_truth, to_target = ctx.saved_tensors
        return grad * to_source, grad * to_truth, grad * to_target, None, None


def interpolate(values: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear interpolation between pixel centres, clamped at the border.

    Args:
        values: (H, W, C).
        pixels: (K, 2) px, COLMAP's convention.

    Returns:
        (K, C), unit length.
    """
    height, width = values.shape[:2]
    index, share = corners(pixels, height, width)
    return functional.normalize(blend(values.flatten(0, 1)[index], share), dim=1)


def corners(pixels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each position, and their bilinear weights.

    Args:
        pixels: (K, 2) px, COLMAP's convention; clamped to the image.
        height, width: size of the image.

    Returns:
        (K, 4) pixel indices in row-major order; (K, 4) weights, 0..1.
    """
    limits = pixels.new_tensor([width - 1, height - 1])
    place = torch.minimum((pixels - 0.5).clamp(min=0), limits)
    low = torch.minimum(place.floor(), (limits - 1).clamp(min=0))
    (across, down), (column, row) = (place - low).T, low.long().T
    right, below = (column + 1).clamp(max=width - 1), (row + 1).clamp(max=height - 1)
    index = torch.stack([row * width + column, row * width + right, below * width + column, below * width + right], 1)
    share = torch.stack([(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down], 1)
    return index, share


def blend(values: Tensor, share: Tensor) -> Tensor:
    """The weighted mean (K, C) of the four values (K, 4, C) around each position; weights (K, 4)."""
    return (values * share[..., None].to(values)).sum(dim=1)
