"""The loss of a group of frames: each frame is described once and compared with all others."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from descriptor.clips.groups import Group
from descriptor.fcdensenet.network import FCDenseNet
from descriptor.fcdensenet.response_loss import blend, corners, response_loss


def group_loss(
    network: FCDenseNet,
    group: Group,
    matching_scale: float,
    target_stride: int,
    offset: int,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """The relative response loss, averaged over all points of all pairs in both directions.

    Args:
        network: describes the frames.
        group: frames and points.
        matching_scale: scale of the softmax.
        target_stride: every N-th pixel of a target stands for its neighbours.
        offset: index of the first of these pixels, 0..target_stride - 1.
        precision: precision of the network's arithmetic; the loss is computed in single precision.
    """
    shared = [_Shared.of_frame(group, frame) for frame in range(len(group.images))]
    searched = [np.flatnonzero(mask)[offset::target_stride] for mask in group.masks]
    images = network.input(group.images, group.masks)
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        features = network.features(images)
    pixels, at_points = _describe(network, features, shared, searched)
    total, count = pixels[0].new_zeros(()), 0
    # All queries into one frame are batched, because each pass over its pixels has the same cost.
    for frame, own in enumerate(shared):
        if own.others:
            truth = torch.cat([at_points[frame, other] for other in own.others])
            sources = functional.normalize(torch.cat([at_points[other, frame] for other in own.others]), dim=1)
            loss = response_loss(sources, truth, pixels[frame], matching_scale, target_stride)
            total, count = total + len(truth) * loss, count + len(truth)
    return total / count


@dataclass(frozen=True)
class _Shared:
    """Points that a frame shares with other frames.

    Attributes:
        others: indices of these frames in the group.
        counts: number of points shared with each.
        places: (sum of counts, 2) px in this frame.
    """

    others: list[int]
    counts: list[int]
    places: np.ndarray

    @classmethod
    def of_frame(cls, group: Group, frame: int) -> "_Shared":
        found = {}
        for (source, target), points in group.pairs.items():
            if frame == source:
                found[target] = points.source
            elif frame == target:
                found[source] = points.target
        places = np.concatenate([*found.values(), np.zeros((0, 2))])
        return cls(list(found), [len(each) for each in found.values()], places)


def _describe(
    network: FCDenseNet, features: Tensor, shared: list[_Shared], searched: list[np.ndarray]
) -> tuple[list[Tensor], dict[tuple[int, int], Tensor]]:
    """Descriptors of each frame's searched pixels, and of its points shared with another: (frame, other) → (K, D)."""
    # Unbound once: the gradient of each `features[frame]` would be as large as all frames together.
    frames = features.unbind()
    height, width = features.shape[2:]
    device = features.device
    looked_at, near, shares = [], [], []
    for own, pixels in zip(shared, searched, strict=True):
        index, share = corners(torch.from_numpy(own.places), height, width)
        looked_at.append(np.union1d(pixels, index.numpy()))
        near.append(torch.from_numpy(np.searchsorted(looked_at[-1], index.numpy())).to(device))
        shares.append(share.to(device))
    chosen = [
        frame.flatten(1)[:, torch.from_numpy(own).to(device)].T.float()
        for frame, own in zip(frames, looked_at, strict=True)
    ]
    described = network.compact_of(torch.cat(chosen)).split([len(own) for own in looked_at])
    at_points: dict[tuple[int, int], Tensor] = {}
    for frame, own in enumerate(shared):
        found = blend(described[frame][near[frame]], shares[frame]).split(own.counts)
        at_points |= {(frame, other): part for other, part in zip(own.others, found, strict=True)}
    places = [torch.from_numpy(np.searchsorted(*pair)).to(device) for pair in zip(looked_at, searched, strict=True)]
    return [own[place] for own, place in zip(described, places, strict=True)], at_points
