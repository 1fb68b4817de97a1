"""Exhaustive search with torch: cache-sized tiles of products, and a running maximum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import Best

# Rows and columns of a tile of products: 4 MiB on CPUs, 256 MiB on GPUs, in single precision.
_CPU_TILE, _GPU_TILE = (256, 4096), (8192, 8192)


@dataclass(frozen=True)
class TissueCells:
    """The tissue cells of a map.

    Attributes:
        values: (P, C), one row per cell.
        cells: (P,) int64, cell indices.
    """

    values: Tensor
    cells: Tensor

    @classmethod
    def of_map(cls, described: DescriptorMap) -> "TissueCells":
        """Extract the tissue cells; in single precision on CPUs, which are slow in lower precision."""
        values = described.values
        if values.device.type == "cpu":
            values = values.float()
        cells = described.mask.flatten().nonzero()[:, 0].to(values.device)
        return cls(values.flatten(1).T[cells].contiguous(), cells)


class TorchSearch:
    """Search on the device of the descriptors."""

    name = "torch"

    def prepare(self, described: DescriptorMap) -> TissueCells:
        """See `SearchEngine.prepare`."""
        return TissueCells.of_map(described)

    @torch.inference_mode()
    def best(self, wanted: Tensor, prepared: TissueCells) -> Best:
        """See `SearchEngine.best`."""
        values, cells = prepared.values, prepared.cells
        wanted = wanted.to(values)
        score = torch.full((len(wanted),), -torch.inf, device=values.device)
        place = torch.zeros(len(wanted), dtype=torch.int64, device=values.device)
        if not len(cells):
            return Best(place - 1, score.fill_(torch.nan))
        rows, columns = _CPU_TILE if values.device.type == "cpu" else _GPU_TILE
        for top in range(0, len(wanted), rows):
            part = slice(top, top + rows)
            for left in range(0, len(cells), columns):
                found, where = (wanted[part] @ values[left : left + columns].T).max(dim=1)
                better = found > score[part]
                score[part] = torch.where(better, found.float(), score[part])
                place[part] = torch.where(better, where + left, place[part])
        return Best(cells[place], score)
