"""Two-step search in a reduced space: among the means of blocks of cells, then inside the best blocks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import Best

# Trained descriptors lie near a low-dimensional subspace. It keeps this share of their squared length, estimated from a
# number of cells.
_KEPT_ENERGY = 0.999
_MEASURED_CELLS = 2048
# The number of dimensions is a multiple of this, for vector instructions.
_DIMENSIONS_TOGETHER = 8
# Approximate number of blocks per map. Means of larger blocks are less informative; more blocks take longer to search.
_BLOCKS = 5000
# Descriptors per batch, and numbers in the descriptors of their candidates per batch: 8 MiB.
_ROWS, _TILE_NUMBERS = 256, 1 << 21


@dataclass(frozen=True)
class Blocks:
    """A map divided into square blocks of cells; blocks without tissue are omitted.

    Attributes:
        basis: (C, D), orthonormal basis of the subspace.
        means: (B, D), mean of the tissue cells of each block.
        values: (B, S, D) coordinates of the cells in the subspace, row by row; 0 without tissue.
        cells: (B, S) int64, cell indices; -1 without tissue.
        every: (C, P) descriptors of the whole map.
    """

    basis: Tensor
    means: Tensor
    values: Tensor
    cells: Tensor
    every: Tensor


class CoarseToFineSearch:
    """Faster than exhaustive search; nearly always agrees with it if descriptors vary smoothly.

    Args:
        block: side of a block in cells; default: chosen from the size of the map, at least 2.
        kept: number of blocks searched for each descriptor.
    """

    name = "coarse_to_fine"

    def __init__(self, block: int | None = None, kept: int = 8) -> None:
        self._block, self._kept = block, kept

    @torch.inference_mode()
    def prepare(self, described: DescriptorMap) -> Blocks:
        """See `SearchEngine.prepare`."""
        every = described.values.float().flatten(1)
        mask = described.mask.to(every.device)
        height, width = mask.shape
        basis = _main_directions(every, mask.flatten())
        reduced = (every.T @ basis).masked_fill_(~mask.flatten()[:, None], 0)
        cells = torch.arange(height * width, device=every.device).masked_fill(~mask.flatten(), -1)
        side = self._block or max(2, round(math.sqrt(height * width / _BLOCKS)))
        values = _cut(reduced.reshape(height, width, -1), side, 0.0)
        numbers = _cut(cells.reshape(height, width, 1), side, -1)[..., 0]
        shown = (numbers >= 0).sum(dim=1)
        has_tissue = shown > 0
        values, numbers = values[has_tissue], numbers[has_tissue]
        means = values.sum(dim=1) / shown[has_tissue, None]
        return Blocks(basis, means, values, numbers, every)

    @torch.inference_mode()
    def best(self, wanted: Tensor, prepared: Blocks) -> Best:
        """See `SearchEngine.best`."""
        wanted = wanted.to(prepared.means)
        if not len(prepared.means):
            missing = torch.full((len(wanted),), -1, device=wanted.device)
            return Best(missing, torch.full_like(missing, torch.nan, dtype=torch.float32))
        kept = min(self._kept, len(prepared.means))
        rows = max(1, min(_ROWS, _TILE_NUMBERS // (kept * prepared.values[0].numel())))
        parts = [self._best_of(part, prepared, kept) for part in (wanted @ prepared.basis).split(rows)]
        cell = torch.cat([torch.zeros(0, dtype=torch.int64, device=wanted.device), *parts])
        # The score uses all dimensions.
        return Best(cell, (wanted * prepared.every[:, cell].T).sum(dim=1))

    @staticmethod
    def _best_of(wanted: Tensor, blocks: Blocks, kept: int) -> Tensor:
        near = (wanted @ blocks.means.T).topk(kept, dim=1, sorted=False).indices
        candidates, numbers = blocks.values[near].flatten(1, 2), blocks.cells[near].flatten(1)
        products = torch.bmm(candidates, wanted[:, :, None])[..., 0].masked_fill_(numbers < 0, -torch.inf)
        return numbers.gather(1, products.argmax(dim=1)[:, None])[:, 0]


def _cut(cells: Tensor, side: int, padding: float) -> Tensor:
    """Divide cells (H, W, D) into square blocks (B, S, D), padded on the right and at the bottom."""
    height, width, length = cells.shape
    padded = functional.pad(cells, (0, 0, 0, -width % side, 0, -height % side), value=padding)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side, length).transpose(1, 2).reshape(rows * columns, side**2, length)


def _main_directions(every: Tensor, mask: Tensor) -> Tensor:
    """An orthonormal basis (C, D) of the subspace near the tissue descriptors of a map (C, P)."""
    tissue = mask.nonzero()[:, 0]
    some = every[:, tissue[:: max(1, len(tissue) // _MEASURED_CELLS)]]
    energy, directions = torch.linalg.eigh(some @ some.T)
    share = energy.flip(0).clamp(min=0).cumsum(0) / energy.clamp(min=0).sum().clamp(min=1e-12)
    needed = int((share < _KEPT_ENERGY).sum()) + 1
    dimensions = min(len(every), -(-needed // _DIMENSIONS_TOGETHER) * _DIMENSIONS_TOGETHER)
    return directions[:, len(every) - dimensions :]
