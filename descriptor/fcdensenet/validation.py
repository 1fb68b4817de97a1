"""Fast validation during training: matching accuracy on a fixed set of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from descriptor.clips.clip import PointPairs
from descriptor.clips.groups import Group
from descriptor.fcdensenet.network import FCDenseNet
from descriptor.fcdensenet.response_loss import interpolate

# In pixels of the network's frame; the first determines the best checkpoint.
THRESHOLDS_PX = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class Validation:
    """Accuracy of the matches.

    Attributes:
        pck: shares of points whose error is within each of THRESHOLDS_PX.
        median_px: median error.
        consistent: share of points whose reverse match ends near the start.
        points: number of points matched.
    """

    pck: tuple[float, ...]
    median_px: float
    consistent: float
    points: int

    def __str__(self) -> str:
        shares = " ".join(f"{share:.3f}" for share in self.pck)
        return f"PCK at {'/'.join(map(str, THRESHOLDS_PX))} px {shares}, median error {self.median_px:.1f} px"


@torch.no_grad()
def validate(network: FCDenseNet, groups: Sequence[Group], cross_check_px: float) -> Validation:
    """Match every point of the groups' pairs with the network in evaluation mode; it is left in training mode.

    Args:
        network: describes the frames.
        groups: frames and points.
        cross_check_px: maximum distance between a point and its reverse match to count as consistent.
    """
    network.eval()
    errors, returns = [], []
    for group in groups:
        described = network.describe(group.images, group.masks)
        tissues = [torch.from_numpy(mask).to(described.device).flatten().nonzero()[:, 0] for mask in group.masks]
        for (source, target), points in group.pairs.items():
            found = _match(described[source], described[target], tissues[target], points)
            errors.append(np.linalg.norm(found - points.target, axis=1))
            back = _match(described[target], described[source], tissues[source], PointPairs(found, points.source))
            returns.append(np.linalg.norm(back - points.source, axis=1))
    network.train()
    error, back_error = np.concatenate(errors), np.concatenate(returns)
    return Validation(
        tuple(float((error <= threshold).mean()) for threshold in THRESHOLDS_PX),
        float(np.median(error)),
        float((back_error <= cross_check_px).mean()),
        len(error),
    )


def _match(source: torch.Tensor, target: torch.Tensor, tissue: torch.Tensor, points: PointPairs) -> np.ndarray:
    """Centres (K, 2) of the target's pixels with the highest response to the points at `points.source`."""
    wanted = interpolate(source, torch.from_numpy(points.source).to(source))
    best = tissue[(wanted @ target.flatten(0, 1)[tissue].T).argmax(dim=1)].cpu().numpy()
    width = target.shape[1]
    return np.stack([best % width, best // width], axis=1) + 0.5
