"""Training with several processes (`torchrun`): ranks, sums and barriers."""

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
    """The processes of a training.

    Attributes:
        rank: rank of this process.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def sum(self, values: list[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        if self.count == 1:
            return
        # One message: otherwise each of a network's many small tensors waits for the slowest process.
        flat = torch.cat([value.reshape(-1) for value in values])
        distributed.all_reduce(flat)
        for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(part.reshape(value.shape))

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes started by `torchrun`, if any: NCCL on GPUs, otherwise gloo."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The timeout is long, because the other processes wait while the first decodes the frames.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def choose_local_device(device: torch.device) -> torch.device:
    """Choose the GPU of this process on this machine.

    Raises:
        LumenError: if there are more processes than GPUs.
    """
    if device.type != "cuda":
        return device
    number, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    require(number < available, f"this machine has {available} GPUs, fewer than processes: lower --nproc_per_node")
    return torch.device("cuda", number)
