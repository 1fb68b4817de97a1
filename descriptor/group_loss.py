"""The loss of a group of frames, each described once and compared with all others."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from descriptor.fcdensenet import FCDenseNet
from descriptor.groups import Group
from descriptor.response_loss import interpolate, response_loss


def group_loss(network: FCDenseNet, group: Group, matching_scale: float, target_stride: int, offset: int) -> Tensor:
    """The relative response loss, the mean over all points of all pairs in both directions.

    Args:
        network: describes the frames.
        group: frames and points.
        matching_scale: of the softmax.
        target_stride: every how many-th pixel of a target stands for its neighbours.
        offset: which of them, 0..target_stride - 1.
    """
    # Taken apart once: the gradient of each `described[frame]` would be as large as all frames.
    frames = network.describe(group.images, group.masks).unbind()
    tasks = _tasks(group)
    places = [[task.place for task in tasks if task.frame == frame] for frame in range(len(frames))]
    at_points: dict[tuple[int, int], Tensor] = {}
    for frame, own in enumerate(places):
        if own:
            found = interpolate(frames[frame], torch.from_numpy(np.concatenate(own)).to(frames[frame]))
            parts = found.split([len(place) for place in own])
            at_points |= dict(zip([task.key for task in tasks if task.frame == frame], parts, strict=True))
    total, count = frames[0].new_zeros(()), 0
    for frame, described in enumerate(frames):
        # All that is looked for in one frame at once, because each pass over its pixels costs the same.
        keys = [task.key for task in tasks if task.frame == frame]
        if not keys:
            continue
        truth = torch.cat([at_points[key] for key in keys])
        sources = torch.cat([at_points[other, own] for own, other in keys])
        tissue = torch.from_numpy(group.masks[frame]).flatten().nonzero()[offset::target_stride, 0]
        pixels = described.flatten(0, 1)[tissue.to(described.device)]
        total = total + len(truth) * response_loss(sources, truth, pixels, matching_scale, target_stride)
        count += len(truth)
    return total / count


@dataclass(frozen=True)
class _Task:
    """The points that a frame shares with another one.

    Attributes:
        frame, other: numbers in the group.
        place: (K, 2) px in `frame`.
    """

    frame: int
    other: int
    place: np.ndarray

    @property
    def key(self) -> tuple[int, int]:
        return self.frame, self.other


def _tasks(group: Group) -> list[_Task]:
    tasks = []
    for (source, target), points in group.pairs.items():
        tasks += [_Task(source, target, points.source), _Task(target, source, points.target)]
    return tasks
