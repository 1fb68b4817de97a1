"""GIFT's loss: triplets of a point, its counterpart, and the most similar wrong place in the other view."""

import torch
from torch import Tensor
from torch.nn import functional

from descriptor.gift.transformations import TransformationGroup


def lattice_offset(group: TransformationGroup, scale: Tensor, rotation_deg: Tensor) -> Tensor:
    """Lattice steps from a group element of the first view to the matching element of the second.

    Args:
        group: the transformation group.
        scale, rotation_deg: (P,) local scale and rotation of the second view relative to the first at each point.

    Returns:
        (P, 2) int64 steps in scale and in rotation.
    """
    step = group.rotations_deg[1] - group.rotations_deg[0]
    # Content that is twice as large must be downscaled by one more step.
    return torch.stack([torch.log2(scale).round(), -(rotation_deg / step).round()], dim=1).long()


def moved_on_lattice(group: TransformationGroup, features: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Shift the group features of the first view to the matching elements of the second.

    Args:
        group: the transformation group.
        features: (P, C, scales, rotations).
        offset: (P, 2) from `lattice_offset`.

    Returns:
        The shifted features, 0 where the first view has no matching element; and (P,) the number of matching elements.
    """
    scales, rotations = group.shape
    device = features.device
    from_scale = torch.arange(scales, device=device)[None, :, None] - offset[:, :1, None]
    from_rotation = torch.arange(rotations, device=device)[None, None] - offset[:, 1:, None]
    if group.is_closed:
        from_rotation = from_rotation % rotations
    shared = (from_scale >= 0) & (from_scale < scales) & (from_rotation >= 0) & (from_rotation < rotations)
    index = from_scale.clamp(0, scales - 1) * rotations + from_rotation.clamp(0, rotations - 1)
    index = index.flatten(1)[:, None].expand(-1, features.shape[1], -1)
    moved = features.flatten(2).gather(2, index).unflatten(2, (scales, rotations))
    return moved * shared[:, None], shared.sum(dim=(1, 2))


def spread_loss(anchors: Tensor, grid: Tensor, too_near: Tensor) -> Tensor:
    """Penalise descriptors of different places that are not spread evenly over the sphere.

    The global orthogonal regularization of Zhang et al., "Learning Spread-out Local Feature Descriptors" (ICCV 2017):
    products of random unit vectors have mean 0 and mean square 1 / D.

    Args:
        anchors, grid, too_near: see `triplet_loss`, with unit vectors of length D.
    """
    differ = ~too_near
    count = differ.sum().clamp(min=1)
    products = (anchors @ grid.T) * differ
    mean, mean_square = products.sum() / count, products.square().sum() / count
    return mean.square() + functional.relu(mean_square - 1 / anchors.shape[1])


def triplet_loss(
    anchors: Tensor, counterparts: Tensor, grid: Tensor, too_near: Tensor, shared: Tensor, margin: float
) -> Tensor:
    """The mean over points of max(0, d(point, counterpart) - d(point, negative) + margin), on squared distances.

    The negative is the nearest grid feature that is far enough from the counterpart in the image, and not nearer than
    the counterpart by more than the margin (semi-hard).

    Args:
        anchors, counterparts: (P, D); each is a concatenation of unit vectors, and 0 in `anchors` where not shared.
        grid: (G, D) of the second view.
        too_near: (P, G) bool, grid positions too close to a point's counterpart to be negatives.
        shared: (P,) number of unit vectors shared by both views; distances are averaged over them.
        margin: see above.
    """
    if not len(grid) or not len(anchors):
        return 0 * anchors.sum()
    # The squared distance of two unit vectors is 2 minus twice their product.
    near = 2 - 2 * (anchors * counterparts).sum(dim=1) / shared
    far = 2 - 2 * (anchors @ grid.T) / shared[:, None]
    with torch.no_grad():
        allowed = far.masked_fill(too_near | (far < near[:, None] - margin), torch.inf)
        hardest, chosen = allowed.min(dim=1)
        has_negative = torch.isfinite(hardest)
    losses = functional.relu(near - far.gather(1, chosen[:, None])[:, 0] + margin)
    return (losses * has_negative).sum() / has_negative.sum().clamp(min=1)
