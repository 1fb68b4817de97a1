"""Points of one frame found in another, to a fraction of a cell, with the proof of the way back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import SearchEngine

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SearchableFrame:
    """A described frame, with what an engine made of it.

    Attributes:
        described: its map.
        prepared: by the engine that searches it.
    """

    described: DescriptorMap
    prepared: Any

    @classmethod
    def of(cls, described: DescriptorMap, engine: SearchEngine) -> "SearchableFrame":
        return cls(described, engine.prepare(described))


@dataclass(frozen=True)
class Matches:
    """Where K points were found.

    Attributes:
        target: (K, 2) float64 px of the target frame; NaN where no cell shows tissue.
        score: (K,) float32, the product of descriptors, -1..1.
        return_px: (K,) float64, how far from its start each match leads back, px of the source's map.
    """

    target: Floats
    score: npt.NDArray[np.float32]
    return_px: Floats

    def consistent(self, distance_px: float) -> npt.NDArray[np.bool_]:
        """(K,) which lead back to within a distance of their start: DDL's `cross_check_distance`."""
        return np.asarray(self.return_px <= distance_px)


def match(engine: SearchEngine, source: SearchableFrame, keypoints: Floats, target: SearchableFrame) -> Matches:
    """Find points of one frame in another, and each match's way back.

    Args:
        engine: that prepared both frames.
        source, target: the frames.
        keypoints: (K, 2) px of the source frame, COLMAP's convention.
    """
    wanted = source.described.at(keypoints)
    there = engine.best(wanted, target.prepared)
    matched = _descriptors(target.described, there.cell)
    returned = summit(matched, source.described, engine.best(matched, source.prepared).cell)
    # What was found nowhere leads back to nowhere.
    returned[(there.cell < 0).cpu().numpy()] = np.nan
    start = source.described.frame.network_from_image(keypoints)
    found = summit(wanted, target.described, there.cell)
    return Matches(
        target.described.frame.image_from_network(found),
        np.asarray(there.score.cpu().numpy(), np.float32),
        np.linalg.norm(returned - start, axis=1),
    )


def summit(wanted: Tensor, described: DescriptorMap, cell: Tensor) -> Floats:
    """The highest point of the response about its best cell, by the parabola through it and its neighbours.

    Args:
        wanted: (K, C) descriptors.
        described: the map.
        cell: (K,) the best cell of each; -1 for none.

    Returns:
        (K, 2) px of the map's frame, at most half a cell from the middle of `cell`; NaN for none.
    """
    height, width = described.mask.shape
    cell = cell.to(described.values.device)
    column, row = cell % width, cell // width
    wanted = wanted.to(described.values.device).float()
    tissue = described.mask.flatten().to(described.values.device)

    def response(columns: Tensor, rows: Tensor) -> Tensor:
        index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        # Not a number where there is no tissue, and so no summit to be found.
        products = (wanted * _descriptors(described, index).float()).sum(dim=1)
        return products.masked_fill(outside | ~tissue[index], torch.nan)

    peak = response(column, row)
    across = _offset(response(column - 1, row), peak, response(column + 1, row))
    down = _offset(response(column, row - 1), peak, response(column, row + 1))
    # Cells are counted by their middles.
    found = torch.stack([column + across, row + down], dim=1).double() + 0.5
    found[cell < 0] = torch.nan
    return np.asarray(found.cpu().numpy())


def _descriptors(described: DescriptorMap, cell: Tensor) -> Tensor:
    """(K, C) of cells; of any where there is none."""
    return described.values.flatten(1)[:, cell.clamp(min=0).to(described.values.device)].T


def _offset(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """Offset, -0.5..0.5, of the highest point of the parabola through three values one apart."""
    bend = before + after - 2 * peak
    offset = (before - after) / (2 * bend)
    return torch.where(bend < -1e-9, offset, torch.zeros_like(offset)).clamp(-0.5, 0.5)
