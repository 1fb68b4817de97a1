"""Matches points of one frame to another with sub-cell accuracy and a reverse check."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import SearchEngine
from pipeline.arrays import Bools, Float32s, Float64s


@dataclass(frozen=True)
class SearchableFrame:
    """A described frame, prepared for an engine.

    Attributes:
        described: descriptor map of the frame.
        prepared: the map as prepared by the engine that searches it.
    """

    described: DescriptorMap
    prepared: Any

    @classmethod
    def of(cls, described: DescriptorMap, engine: SearchEngine) -> "SearchableFrame":
        return cls(described, engine.prepare(described))


@dataclass(frozen=True)
class Matches:
    """Matches of K points.

    Attributes:
        target: (K, 2) float64 px of the target frame; NaN if no cell shows tissue.
        score: (K,) float32, product of the descriptors, -1..1.
        return_px: (K,) float64, distance between each point and its reverse match, px of the source's map.
    """

    target: Float64s
    score: Float32s
    return_px: Float64s

    def consistent(self, distance_px: float) -> Bools:
        """Whether each reverse match (K,) ends within a distance of its start: DDL's `cross_check_distance`."""
        return np.asarray(self.return_px <= distance_px)


def match(engine: SearchEngine, source: SearchableFrame, keypoints: Float64s, target: SearchableFrame) -> Matches:
    """Match points of one frame to another, and back.

    Args:
        engine: engine that prepared both frames.
        source, target: the frames.
        keypoints: (K, 2) px of the source frame, COLMAP's convention.
    """
    wanted = source.described.at(keypoints)
    there = engine.best(wanted, target.prepared)
    matched = _descriptors(target.described, there.cell)
    returned = summit(matched, source.described, engine.best(matched, source.prepared).cell)
    # A point without a match has no reverse match.
    returned[(there.cell < 0).cpu().numpy()] = np.nan
    start = source.described.frame.network_from_image(keypoints)
    found = summit(wanted, target.described, there.cell)
    return Matches(
        target.described.frame.image_from_network(found),
        np.asarray(there.score.cpu().numpy(), np.float32),
        np.linalg.norm(returned - start, axis=1),
    )


def summit(wanted: Tensor, described: DescriptorMap, cell: Tensor) -> Float64s:
    """Refine the maximum of the response by a parabola through the best cell and its neighbours.

    Args:
        wanted: (K, C) descriptors.
        described: the map.
        cell: (K,) the best cell of each descriptor; -1 for none.

    Returns:
        (K, 2) px of the map's frame, at most half a cell from the centre of `cell`; NaN for none.
    """
    height, width = described.mask.shape
    cell = cell.to(described.values.device)
    column, row = cell % width, cell // width
    wanted = wanted.to(described.values.device).float()
    tissue = described.mask.flatten().to(described.values.device)

    def response(columns: Tensor, rows: Tensor) -> Tensor:
        index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        # NaN without tissue, which disables the refinement.
        products = (wanted * _descriptors(described, index).float()).sum(dim=1)
        return products.masked_fill(outside | ~tissue[index], torch.nan)

    peak = response(column, row)
    across = _offset(response(column - 1, row), peak, response(column + 1, row))
    down = _offset(response(column, row - 1), peak, response(column, row + 1))
    # Cell indices refer to cell centres.
    found = torch.stack([column + across, row + down], dim=1).double() + 0.5
    found[cell < 0] = torch.nan
    return np.asarray(found.cpu().numpy())


def _descriptors(described: DescriptorMap, cell: Tensor) -> Tensor:
    """Descriptors (K, C) of cells; arbitrary where the cell is -1."""
    return described.values.flatten(1)[:, cell.clamp(min=0).to(described.values.device)].T


def _offset(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """Offset, -0.5..0.5, of the maximum of the parabola through three equidistant values."""
    bend = before + after - 2 * peak
    offset = (before - after) / (2 * bend)
    return torch.where(bend < -1e-9, offset, torch.zeros_like(offset)).clamp(-0.5, 0.5)
