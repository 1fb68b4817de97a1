"""The backends by name, and any weights file to the backend that it belongs to."""

from pathlib import Path

import torch

from descriptor.base import Descriptor
from descriptor.checkpoint import read_checkpoint_file
from descriptor.dense_sift import DenseSift
from descriptor.fcdensenet_descriptor import FCDenseNetDescriptor
from pipeline.errors import LumenError

# Made from a file of weights.
DESCRIPTORS = {FCDenseNetDescriptor.name: FCDenseNetDescriptor}
# Made from nothing.
UNTRAINED = {DenseSift.name: DenseSift}


def load_descriptor(path: Path, device: torch.device | None = None) -> Descriptor:
    """A trained descriptor from its file: its method and its network's shape are found from what is in it.

    Args:
        path: a checkpoint of ours, or of DDL's.
        device: where to put it; the CPU by default.

    Raises:
        LumenError: if it is missing, damaged, holds code, or is of no known method.
    """
    content = read_checkpoint_file(path)
    for backend in DESCRIPTORS.values():
        if backend.recognises(content):
            return backend.from_file(path, device or torch.device("cpu"))
    held = ", ".join(map(str, content)) or "nothing"
    raise LumenError(f"{path} holds {held}: not a checkpoint of {' or '.join(DESCRIPTORS)}")
