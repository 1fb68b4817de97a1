"""Reference implementation of the search in double precision, for tests of the engines."""

import numpy as np
import torch
from torch import Tensor

from descriptor.base import DescriptorMap
from descriptor.matching.engines.search import Best
from pipeline.arrays import Float64s, Ints


class ReferenceSearch:
    """One matrix product over the whole map: for small maps."""

    name = "reference"

    def prepare(self, described: DescriptorMap) -> tuple[Float64s, Ints]:
        """The descriptors (P, C) of the tissue cells, and the cell indices (P,)."""
        cells = np.flatnonzero(described.mask.cpu().numpy())
        values = described.values.double().cpu().numpy()
        return values.reshape(len(values), -1)[:, cells].T, cells

    def best(self, wanted: Tensor, prepared: tuple[Float64s, Ints]) -> Best:
        """See `SearchEngine.best`."""
        values, cells = prepared
        if not len(cells):
            return Best(torch.full((len(wanted),), -1), torch.full((len(wanted),), torch.nan))
        products = wanted.double().cpu().numpy() @ values.T
        return Best(
            torch.from_numpy(cells[products.argmax(axis=1)]), torch.from_numpy(products.max(axis=1, initial=-2)).float()
        )
