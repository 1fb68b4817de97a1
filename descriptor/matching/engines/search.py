"""What every search engine is given and answers: the cell of a map that is most like each of some descriptors."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from descriptor.base import DescriptorMap


@dataclass(frozen=True)
class Best:
    """The best cell for each of K descriptors.

    Attributes:
        cell: (K,) int64, counted row by row over the whole map; of equal ones the first. -1 if no cell shows tissue.
        score: (K,) float32, the product with that cell's descriptor, -1..1; NaN if there is none.
    """

    cell: Tensor
    score: Tensor


class SearchEngine(Protocol):
    """A way of finding the best cells: exhaustively (the same but for rounding), or nearly so from coarse to fine.

    Attributes:
        name: on the command line.
    """

    name: str

    def prepare(self, described: DescriptorMap) -> Any:
        """What the engine needs of a map, made once for all searches in it."""

    def best(self, wanted: Tensor, prepared: Any) -> Best:
        """Search a map.

        Args:
            wanted: (K, C) descriptors.
            prepared: the map, by `prepare` of the same engine.
        """
