"""Descriptor backends by name, and the backend of a weight file."""

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

# Backends with trained weights.
TRAINED = (FCDenseNetDescriptor.name, GiftDescriptor.name)
# Backends without weights.
UNTRAINED = {DenseSift.name: DenseSift}


def load_descriptor(path: AnyPath, device: torch.device | None = None, rotations: int | None = None) -> Descriptor:
    """Load a trained descriptor; its method and network shape are determined from the file.

    Args:
        path: a checkpoint (ours, DDL's or GIFT's) or plain weights, of torch or safetensors; or a folder of <step>.pth,
            as GIFT writes them, of which the latest is loaded.
        device: device of the network; default: the CPU.
        rotations: rotations of GIFT's group, 5 or 8, which published files do not record; default: 5.

    Raises:
        LumenError: if the file is missing, damaged, contains code or has an unknown method, or if `rotations` is
            given for another method than GIFT.
    """
    path = _latest(Path(path))
    checkpoint = Checkpoint.load(path)
    device = device or torch.device("cpu")
    if GiftDescriptor.recognises(checkpoint.model):
        return GiftDescriptor.from_checkpoint(checkpoint, path, device, rotations)
    if FCDenseNetDescriptor.recognises(checkpoint.model):
        require(rotations is None, f"--rotations applies to GIFT only; {path} is a {FCDenseNetDescriptor.name} network")
        return FCDenseNetDescriptor.from_checkpoint(checkpoint, path, device)
    raise LumenError(
        f"{path} contains weights of a network other than {' or '.join(TRAINED)}: {listed(checkpoint.model)}"
    )


def _latest(path: Path) -> Path:
    """The file itself, or the file of the largest step in a folder."""
    steps = {int(each.stem): each for each in path.glob("*.pth") if each.stem.isdecimal()} if path.is_dir() else {}
    return steps[max(steps)] if steps else path
