"""Images for TensorBoard: descriptors as colours, and heatmaps beside the ground truth."""

import numpy as np
import torch
from torch import Tensor

from descriptor.clips.groups import Group
from descriptor.fcdensenet.response_loss import interpolate
from pipeline.arrays import AnyFloats, Bytes

_Image = Bytes

_HEATMAPS = 4


def heatmaps(described: Tensor, group: Group, matching_scale: float, sigma_px: float) -> _Image:
    """Target, ground-truth and predicted heatmap for some points of the group's widest pair, one row per point.

    Args:
        described: (N, H, W, D).
        group: the frames.
        matching_scale: scale of the softmax.
        sigma_px: standard deviation of the ground-truth heatmaps.
    """
    (source, target), points = max(group.pairs.items(), key=lambda item: item[0][1] - item[0][0])
    chosen = np.linspace(0, len(points) - 1, min(_HEATMAPS, len(points))).astype(int)
    wanted = interpolate(described[source], torch.from_numpy(points.source[chosen]).to(described))
    logits = 0.5 * matching_scale * (described[target].flatten(0, 1) @ wanted.T)
    height, width = group.masks.shape[1:]
    rows, columns = np.mgrid[:height, :width] + 0.5
    panels = []
    for number, place in enumerate(points.target[chosen]):
        squared = (columns - place[0]) ** 2 + (rows - place[1]) ** 2
        truth = np.exp(-squared / (2 * sigma_px**2))
        heat = torch.softmax(logits[:, number], 0).reshape(height, width).cpu().numpy()
        shown = [_grey(group.images[target].mean(axis=2) / 255), _grey(truth), _grey(np.sqrt(heat / heat.max()))]
        panels.append(np.concatenate(shown, axis=1))
    return np.concatenate(panels, axis=0)


def descriptor_colors(described: Tensor, group: Group) -> _Image:
    """Frames above their descriptors; the first three principal components are shown as red, green and blue.

    Args:
        described: (N, H, W, D).
        group: the frames.

    Returns:
        (2 H, N W, 3) uint8.
    """
    mask = torch.from_numpy(group.masks)
    flat = described.cpu()[mask]
    centred = flat - flat.mean(dim=0)
    # A subset of the pixels suffices for the principal components.
    main = torch.linalg.svd(centred[:: max(1, len(centred) // 5000)], full_matrices=False).Vh[:3]
    # Descriptors with one or two channels have fewer components than colours.
    shade = torch.nn.functional.pad(centred @ main.T, (0, 3 - len(main)))
    spread = 2 * shade.std(dim=0) + 1e-9
    colors = torch.zeros((*described.shape[:3], 3))
    colors[mask] = (shade / spread * 0.5 + 0.5).clamp(0, 1)
    painted = (colors.numpy() * 255).astype(np.uint8)
    return np.concatenate([np.concatenate(list(rows), axis=1) for rows in (group.images, painted)], axis=0)


def _grey(values: AnyFloats) -> Bytes:
    levels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)
