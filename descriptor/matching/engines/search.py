"""Interface of search engines: the most similar cell of a map for each descriptor."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from descriptor.base import DescriptorMap


@dataclass(frozen=True)
class Best:
    """The best cell for each of K descriptors.

    Attributes:
        cell: (K,) int64, row-major index in the whole map; the first of equal cells. -1 if no cell shows tissue.
        score: (K,) float32, product with the descriptor of the cell, -1..1; NaN if there is none.
    """

    cell: Tensor
    score: Tensor


class SearchEngine(Protocol):
    """Finds the best cells: exhaustively (exact up to rounding), or approximately from coarse to fine.

    Attributes:
        name: name on the command line.
    """

    name: str

    def prepare(self, described: DescriptorMap) -> Any:
        """Prepare a map once for all searches in it."""

    def best(self, wanted: Tensor, prepared: Any) -> Best:
        """Search a map.

        Args:
            wanted: (K, C) descriptors.
            prepared: the map, from `prepare` of the same engine.
        """
