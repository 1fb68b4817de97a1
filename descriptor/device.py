"""Choice of the device, and memory settings for training."""

import ctypes
import logging
import platform
from typing import Literal

import torch

from pipeline.errors import LumenError, require

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 2**30

logger = logging.getLogger(__name__)


def choose_device(wanted: Literal["auto", "cpu", "cuda"], gpu: int = 0) -> torch.device:
    """Choose a device by name; "auto" takes a working GPU if available, and logs the choice.

    Raises:
        LumenError: if a GPU is requested and none is available.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        require(gpu < count, f"--gpu_id {gpu}: this machine has {count} GPUs, numbered from 0")
        logger.info("using the GPU: %s", torch.cuda.get_device_name(gpu))
        return torch.device("cuda", gpu)
    no_cuda = f"this PyTorch ({torch.__version__}) is built without CUDA"
    why = no_cuda if torch.version.cuda is None else "the driver reports no GPU"
    if wanted == "cuda":
        raise LumenError(f"--device cuda: {why}; use --device cpu, or install PyTorch with CUDA")
    logger.info("using the CPU with %d threads (%s)", torch.get_num_threads(), why)
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory.

    Every step frees and allocates the same large blocks. By default glibc returns them to the system; mapping them
    again, page by page, takes a third of the step's time on the CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
