"""The search in two steps, in few dimensions: among blocks of cells by their means, then inside the best few blocks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import Best

# Trained descriptors lie near a subspace of far fewer dimensions than they have numbers: this share of their squared
# length is kept, as found from some of the cells.
_KEPT_ENERGY = 0.999
_MEASURED_CELLS = 2048
# Dimensions are counted in steps of so many, which processors take together.
_DIMENSIONS_TOGETHER = 8
# About so many blocks to a map: of larger ones the means say too little, of smaller ones there are more to search.
_BLOCKS = 5000
# Descriptors at once, and numbers of their candidates' descriptors at once: 8 MiB.
_ROWS, _TILE_NUMBERS = 256, 1 << 21


@dataclass(frozen=True)
class Blocks:
    """A map cut into square blocks of cells, those that show tissue.

    Attributes:
        basis: (C, D), orthonormal, of the subspace that the descriptors lie near.
        means: (B, D), of the cells of each block.
        values: (B, S, D) coordinates of their cells in the subspace, row by row; 0 where there is no tissue.
        cells: (B, S) int64, which they are; -1 where there is no tissue.
        every: (C, P) descriptors of the whole map.
    """

    basis: Tensor
    means: Tensor
    values: Tensor
    cells: Tensor
    every: Tensor


class CoarseToFineSearch:
    """Faster than the exhaustive search, and nearly always of one mind with it where descriptors change smoothly.

    Args:
        block: cells of a block's side; by default it goes by the size of the map, and is 2 at least.
        kept: blocks that are searched for each descriptor.
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
        # The score is that of all dimensions.
        return Best(cell, (wanted * prepared.every[:, cell].T).sum(dim=1))

    @staticmethod
    def _best_of(wanted: Tensor, blocks: Blocks, kept: int) -> Tensor:
        near = (wanted @ blocks.means.T).topk(kept, dim=1, sorted=False).indices
        candidates, numbers = blocks.values[near].flatten(1, 2), blocks.cells[near].flatten(1)
        products = torch.bmm(candidates, wanted[:, :, None])[..., 0].masked_fill_(numbers < 0, -torch.inf)
        return numbers.gather(1, products.argmax(dim=1)[:, None])[:, 0]


def _cut(cells: Tensor, side: int, padding: float) -> Tensor:
    """Cells (H, W, D) as square blocks (B, S, D), with padding at the right and below."""
    height, width, length = cells.shape
    padded = functional.pad(cells, (0, 0, 0, -width % side, 0, -height % side), value=padding)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side, length).transpose(1, 2).reshape(rows * columns, side**2, length)


def _main_directions(every: Tensor, mask: Tensor) -> Tensor:
    """An orthonormal basis (C, D) of what the descriptors (C, P) of the cells that show tissue lie near."""
    tissue = mask.nonzero()[:, 0]
    some = every[:, tissue[:: max(1, len(tissue) // _MEASURED_CELLS)]]
    energy, directions = torch.linalg.eigh(some @ some.T)
    share = energy.flip(0).clamp(min=0).cumsum(0) / energy.clamp(min=0).sum().clamp(min=1e-12)
    needed = int((share < _KEPT_ENERGY).sum()) + 1
    dimensions = min(len(every), -(-needed // _DIMENSIONS_TOGETHER) * _DIMENSIONS_TOGETHER)
    return directions[:, len(every) - dimensions :]
