"""The search in two steps: among blocks of cells by their mean descriptors, then inside the best few blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from descriptor.base import DescriptorMap
from descriptor.matching.search import Best

# A tile of candidates' descriptors: 32 MiB.
_TILE_NUMBERS = 1 << 23


@dataclass(frozen=True)
class Blocks:
    """A map cut into square blocks of cells.

    Attributes:
        means: (B, C) of length 1, of the cells that show tissue in each block that has any.
        values: (B, S, C) descriptors of their cells, row by row; 0 where there is no tissue.
        cells: (B, S) int64, which they are; -1 where there is no tissue.
    """

    means: Tensor
    values: Tensor
    cells: Tensor


class CoarseToFineSearch:
    """Faster than the exhaustive search, and nearly always of one mind with it where descriptors change smoothly.

    Args:
        block: cells of a block's side.
        kept: blocks that are searched for each descriptor.
    """

    name = "coarse_to_fine"

    def __init__(self, block: int = 4, kept: int = 6) -> None:
        self._block, self._kept = block, kept

    def prepare(self, described: DescriptorMap) -> Blocks:
        """See `SearchEngine.prepare`."""
        values, side = described.values.float(), self._block
        channels, height, width = values.shape
        mask = described.mask.to(values.device)
        cells = torch.arange(height * width, device=values.device).reshape(height, width).masked_fill(~mask, -1)
        down, right = -height % side, -width % side
        values = functional.pad(values.masked_fill(~mask, 0), (0, right, 0, down))
        cells = functional.pad(cells, (0, right, 0, down), value=-1)
        rows, columns = cells.shape[0] // side, cells.shape[1] // side
        cut = values.reshape(channels, rows, side, columns, side).permute(1, 3, 2, 4, 0)
        cut = cut.reshape(rows * columns, side * side, channels)
        numbers = cells.reshape(rows, side, columns, side).permute(0, 2, 1, 3).reshape(rows * columns, side * side)
        has_tissue = (numbers >= 0).any(dim=1)
        cut, numbers = cut[has_tissue], numbers[has_tissue]
        return Blocks(functional.normalize(cut.sum(dim=1), dim=1), cut, numbers)

    @torch.inference_mode()
    def best(self, wanted: Tensor, prepared: Blocks) -> Best:
        """See `SearchEngine.best`."""
        wanted = wanted.to(prepared.means)
        if not len(prepared.means):
            missing = torch.full((len(wanted),), -1, device=wanted.device)
            return Best(missing, torch.full_like(missing, torch.nan, dtype=torch.float32))
        kept = min(self._kept, len(prepared.means))
        rows = max(1, _TILE_NUMBERS // (kept * prepared.values[0].numel()))
        parts = [self._best_of(part, prepared, kept) for part in wanted.split(rows)]
        return (
            Best(*(torch.cat(found) for found in zip(*parts, strict=True)))
            if parts
            else Best(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        )

    @staticmethod
    def _best_of(wanted: Tensor, blocks: Blocks, kept: int) -> tuple[Tensor, Tensor]:
        near = (wanted @ blocks.means.T).topk(kept, dim=1, sorted=False).indices
        candidates = blocks.values[near].flatten(1, 2)
        numbers = blocks.cells[near].flatten(1)
        products = torch.bmm(candidates, wanted[:, :, None])[..., 0].masked_fill_(numbers < 0, -torch.inf)
        score, place = products.max(dim=1)
        return numbers.gather(1, place[:, None])[:, 0], score
