"""The learning rate as a function of how far training has come."""

import math
from typing import Literal

# Of the whole training.
_WARM_UP = 0.15


def learning_rate(kind: Literal["muon", "adamw", "sgd"], low: float, high: float, share: float, cycle: float) -> float:
    """The rate to train with.

    Args:
        kind: "muon" and "adamw" warm up linearly from `low` to `high` and come down to a tenth of `low` by a cosine
            (Smith's one cycle, 2018); "sgd" goes up and down between the two in each cycle (Smith, WACV 2017), as DDL
            does.
        low, high: bounds.
        share: of the training that is done, 0..1.
        cycle: of the cycle that is under way, 0..1.
    """
    if kind == "sgd":
        return low + (high - low) * (1 - abs(2 * cycle - 1))
    if share < _WARM_UP:
        return low + (high - low) * share / _WARM_UP
    end = low / 10
    return end + (high - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - _WARM_UP) / (1 - _WARM_UP))))
