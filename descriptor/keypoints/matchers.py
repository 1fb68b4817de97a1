"""Which descriptors of two images belong together."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

Integers = npt.NDArray[np.int64]
MatcherName = Literal["nearest", "mutual", "ratio"]

# A row of products at a time: 64 MiB in single precision.
_NUMBERS_AT_ONCE = 1 << 24


def match_descriptors(first: Tensor, second: Tensor, how: MatcherName, ratio: float = 0.8) -> Integers:
    """Match descriptors of length 1.

    Args:
        first, second: (N, C) and (M, C).
        how: `nearest` matches each of the first with the nearest of the second; `mutual` keeps those of which each is
            the other's nearest; `ratio` those that are nearer than the second nearest by a factor (Lowe, IJCV 2004).
        ratio: the nearest distance by the second nearest, at most, for `ratio`.

    Returns:
        (K, 2) int64, rows of first and second.
    """
    if not len(first) or not len(second):
        return np.zeros((0, 2), np.int64)
    best, is_clear = _nearest(first, second, ratio)
    matches = np.stack([np.arange(len(first)), best], axis=1)
    if how == "mutual":
        return matches[_nearest(second, first, ratio)[0][best] == matches[:, 0]]
    return matches[is_clear] if how == "ratio" else matches


def _nearest(first: Tensor, second: Tensor, ratio: float) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """The nearest of the second to each of the first, and whether it is clearly so."""
    found, clear = [], []
    for part in first.split(max(1, _NUMBERS_AT_ONCE // len(second))):
        products, place = (part @ second.T).topk(min(2, len(second)), dim=1)
        distance = (2 - 2 * products).clamp(min=0).sqrt()
        found.append(place[:, 0].cpu().numpy())
        alone = distance.shape[1] == 1
        is_clear = distance[:, 0] <= ratio * distance[:, 1] if not alone else distance[:, 0] >= 0
        clear.append(is_clear.cpu().numpy())
    return np.concatenate(found).astype(np.int64), np.concatenate(clear)
