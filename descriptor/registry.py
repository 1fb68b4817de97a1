"""The backends by name, and any weights file to the backend that it belongs to."""

from pathlib import Path

import torch

from descriptor.base import Descriptor
from descriptor.checkpoint import Checkpoint
from descriptor.checkpoint_file import listed
from descriptor.dense_sift import DenseSift
from descriptor.fcdensenet.descriptor import FCDenseNetDescriptor
from descriptor.gift.descriptor import GiftDescriptor
from pipeline.errors import LumenError, require
from pipeline.paths import AnyPath

# Made from a file of weights.
TRAINED = (FCDenseNetDescriptor.name, GiftDescriptor.name)
# Made from nothing.
UNTRAINED = {DenseSift.name: DenseSift}


def load_descriptor(path: AnyPath, device: torch.device | None = None, rotations: int | None = None) -> Descriptor:
    """A trained descriptor from its file: its method and its network's shape are found from what is in it.

    Args:
        path: a checkpoint of ours, of DDL's, or of GIFT's, or weights alone, by torch or safetensors; or a folder of
            <step>.pth as GIFT writes them, of which the last is taken.
        device: where to put it; the CPU by default.
        rotations: of GIFT's group, 5 or 8, which its published files do not tell; 5 by default.

    Raises:
        LumenError: if it is missing, damaged, holds code, or is of no known method, or not of GIFT for `rotations`.
    """
    path = _latest(Path(path))
    checkpoint = Checkpoint.load(path)
    device = device or torch.device("cpu")
    if GiftDescriptor.recognises(checkpoint.model):
        return GiftDescriptor.from_checkpoint(checkpoint, path, device, rotations)
    if FCDenseNetDescriptor.recognises(checkpoint.model):
        require(rotations is None, f"{path} is of {FCDenseNetDescriptor.name}, which has no group of rotations")
        return FCDenseNetDescriptor.from_checkpoint(checkpoint, path, device)
    raise LumenError(
        f"{path} holds the weights of another network than {' or '.join(TRAINED)}: {listed(checkpoint.model)}"
    )


def _latest(path: Path) -> Path:
    """The file itself, or the one of the largest step in a folder."""
    steps = {int(each.stem): each for each in path.glob("*.pth") if each.stem.isdecimal()} if path.is_dir() else {}
    return steps[max(steps)] if steps else path
