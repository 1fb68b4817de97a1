"""Where to compute, and how memory is kept for it."""

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
    """The device of that name; "auto" takes a GPU if there is one that works, and says what it took.

    Raises:
        LumenError: if a GPU is wanted where there is none.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        require(gpu < torch.cuda.device_count(), f"there are {torch.cuda.device_count()} GPUs, number {gpu} is not one")
        logger.info("on the GPU: %s", torch.cuda.get_device_name(gpu))
        return torch.device("cuda", gpu)
    built_with = f"this PyTorch ({torch.__version__})"
    why = f"{built_with} is built without CUDA" if torch.version.cuda is None else "its driver shows no GPU"
    if wanted == "cuda":
        raise LumenError(f"--device cuda: {why}; use --device cpu, or install PyTorch with CUDA")
    logger.info("on the CPU with %d threads (%s)", torch.get_num_threads(), why)
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, where it is glibc.

    Each step frees and asks again for the same large blocks, which by default go back to the system in between; getting
    them anew, page by page, takes a third of a step's time on the CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
