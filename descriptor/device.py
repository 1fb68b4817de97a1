"""Where to compute."""

import logging
from typing import Literal

import torch

from pipeline.errors import LumenError

logger = logging.getLogger(__name__)


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one that works, and says what it took.

    Raises:
        LumenError: if a GPU is wanted where there is none.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        logger.info("on the GPU: %s", torch.cuda.get_device_name())
        return torch.device("cuda")
    built_with = f"this PyTorch ({torch.__version__})"
    why = f"{built_with} is built without CUDA" if torch.version.cuda is None else "its driver shows no GPU"
    if wanted == "cuda":
        raise LumenError(f"--device cuda: {why}; use --device cpu, or install PyTorch with CUDA")
    logger.info("on the CPU with %d threads (%s)", torch.get_num_threads(), why)
    return torch.device("cpu")
