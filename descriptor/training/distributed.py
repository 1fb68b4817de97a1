"""Training by several processes (`torchrun`): who am I, and sums over all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from pipeline.errors import require

_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: of this one.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, values: list[Tensor]) -> None:
        """Add each tensor up over all processes, in place."""
        if self.count == 1:
            return
        # One message, because a network's many small tensors would each wait for the slowest process.
        flat = torch.cat([value.reshape(-1) for value in values])
        distributed.all_reduce(flat)
        for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(part.reshape(value.shape))

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone: NCCL between GPUs, else gloo."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Long, because the others wait while the first decodes the frames.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def choose_local_device(device: torch.device) -> torch.device:
    """The GPU of this process, if there are several processes on this machine.

    Raises:
        LumenError: if there are more of them than GPUs.
    """
    if device.type != "cuda":
        return device
    number, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    require(number < available, f"more processes than the {available} GPUs of this machine: lower --nproc_per_node")
    return torch.device("cuda", number)
