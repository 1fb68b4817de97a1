"""Where each way of matching finds the points of one frame in another, all in pixels of the recorded frames."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descriptor.base import Descriptor, DescriptorMap
from descriptor.clip import Clip
from descriptor.clip_frames import Remembered, read_recorded
from pipeline.conventions import colmap_from_index

Floats = npt.NDArray[np.float64]

# Products of descriptors that are held at once: 64 MiB.
_TILE_PRODUCTS = 1 << 24
_DESCRIBED_FRAMES = 32


class PairMatcher(Protocol):
    """A way of finding points again.

    Attributes:
        name: in tables.
    """

    name: str

    def match(self, clip: Clip, source: int, target: int, points: Floats) -> Floats:
        """Where points (K, 2) of the recorded frame in row `source` are in that of row `target`: (K, 2) px.

        NaN where it finds nothing.
        """


class DescriptorMatcher:
    """The cell of the target, of all that show tissue, whose descriptor is most like the point's.

    Args:
        descriptor: any backend.
        name: in tables; the backend's own by default.
    """

    def __init__(self, descriptor: Descriptor, name: str = "") -> None:
        self.name = name or descriptor.name
        self._describe = Remembered(
            lambda clip, row: descriptor.describe(read_recorded(clip, row), clip.content), _DESCRIBED_FRAMES
        )

    def match(self, clip: Clip, source: int, target: int, points: Floats) -> Floats:
        """See `PairMatcher.match`."""
        wanted = self._describe(clip, source).at(points)
        found = self._describe(clip, target)
        return found.frame.image_from_network(best_cells(wanted, found))


class RandomMatcher:
    """Any pixel of tissue: what chance finds.

    Args:
        seed: of chance.
    """

    name = "random"

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def match(self, clip: Clip, source: int, target: int, points: Floats) -> Floats:
        """See `PairMatcher.match`."""
        row, column = np.nonzero(clip.content)
        chosen = self._random.integers(0, len(row), len(points))
        return colmap_from_index(np.stack([column[chosen], row[chosen]], axis=1))


def best_cells(wanted: Tensor, described: DescriptorMap) -> Floats:
    """The best response over the cells that show tissue, with a sub-pixel offset.

    Args:
        wanted: (K, C) descriptors.
        described: the map to search.

    Returns:
        (K, 2) px of the map's frame; NaN if no cell shows tissue.
    """
    height, width = described.mask.shape
    cells = described.mask.flatten().nonzero()[:, 0].to(described.values.device)
    if not len(cells):
        return np.full((len(wanted), 2), np.nan)
    # (C, P), so that a column is a cell.
    flat = described.values.reshape(len(described.values), -1)
    searched = flat[:, cells]
    rows = max(1, _TILE_PRODUCTS // len(cells))
    best = [cells[(part @ searched).argmax(dim=1)] for part in wanted.split(rows)]
    place = torch.cat(best) if best else cells[:0]
    column, row = place % width, place // width

    def response(columns: Tensor, rows: Tensor) -> Tensor:
        index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        return (wanted * flat[:, index].T).sum(dim=1)

    peak = response(column, row)
    across = _summit(response(column - 1, row), peak, response(column + 1, row))
    down = _summit(response(column, row - 1), peak, response(column, row + 1))
    # Cells are counted by their middles.
    return np.asarray(torch.stack([column + across, row + down], dim=1).double().cpu().numpy() + 0.5)


def _summit(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """Offset, -0.5..0.5, of the highest point of the parabola through three values one apart."""
    bend = before + after - 2 * peak
    offset = (before - after) / (2 * bend)
    return torch.where(bend < -1e-9, offset, torch.zeros_like(offset)).clamp(-0.5, 0.5)
