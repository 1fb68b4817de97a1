"""The search engines by name, and the choice among them."""

import logging
from typing import Literal

import torch

from descriptor.matching.coarse_to_fine import CoarseToFineSearch
from descriptor.matching.search import SearchEngine
from descriptor.matching.torch_search import TorchSearch

EngineName = Literal["auto", "torch", "coarse_to_fine"]

logger = logging.getLogger(__name__)


def choose_engine(name: EngineName, device: torch.device) -> SearchEngine:
    """The engine of that name, for descriptors on a device; says which, if it was left open."""
    if name == "coarse_to_fine":
        return CoarseToFineSearch()
    if name == "auto":
        logger.info("descriptors are searched exhaustively by torch on the %s", device.type.upper())
    return TorchSearch()
