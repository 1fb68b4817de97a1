"""Choice of the search engine by name."""

import importlib
import logging
from typing import Any, Literal

import torch

from descriptor.base import DescriptorMap
from descriptor.matching.engines.coarse_to_fine import CoarseToFineSearch
from descriptor.matching.engines.cupy_search import CupySearch
from descriptor.matching.engines.search import SearchEngine
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.network_frame import NetworkFrame
from pipeline.errors import LumenError

EngineName = Literal["auto", "torch", "cupy", "coarse_to_fine"]

logger = logging.getLogger(__name__)


def choose_engine(name: EngineName, device: torch.device) -> SearchEngine:
    """Choose an engine for descriptors on a device; "auto" logs the choice and its reason.

    Raises:
        LumenError: if CuPy is requested but unusable, with the reason.
    """
    if name == "coarse_to_fine":
        return CoarseToFineSearch()
    if name == "torch":
        return TorchSearch()
    if name == "auto" and device.type == "cpu":
        logger.info("matching descriptors exhaustively with torch on the CPU")
        return TorchSearch()
    try:
        engine = usable_cupy(device)
    except LumenError as problem:
        if name == "cupy":
            raise LumenError(f"--matcher cupy: {problem}; or use --matcher torch") from problem
        logger.info("matching descriptors exhaustively with torch on the GPU (%s)", problem)
        return TorchSearch()
    if name == "auto":
        logger.info("matching descriptors exhaustively with cupy on the GPU")
    return engine


def usable_cupy(device: torch.device) -> CupySearch:
    """Create the CuPy engine and test it on a device.

    Raises:
        LumenError: if CuPy is not installed, finds no GPU or is broken, or PyTorch does not use the GPU.
    """
    cupy = _import_cupy()
    try:
        gpus = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise LumenError(f"CuPy {cupy.__version__} is installed but finds no GPU ({_one_line(error)})") from error
    if not gpus:
        raise LumenError(f"CuPy {cupy.__version__} is installed but finds no GPU")
    if device.type != "cuda":
        raise LumenError(
            f"CuPy finds a GPU, but PyTorch ({torch.__version__}) computes descriptors on the CPU: "
            "use --device cuda, with a PyTorch built for CUDA"
        )
    try:
        engine = CupySearch(cupy)
        _try_out(engine, device)
    # Missing libraries, or libraries that do not match the driver, raise exceptions of any type.
    except Exception as error:
        raise LumenError(f"CuPy {cupy.__version__} finds the GPU but is broken ({_one_line(error)})") from error
    return engine


def _import_cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise LumenError(f"CuPy is not installed: {_how_to_install()}") from error
        raise LumenError(f"CuPy is installed but broken ({_one_line(error)}): {_how_to_install()}") from error
    except Exception as error:
        raise LumenError(f"CuPy is installed but broken ({_one_line(error)}): {_how_to_install()}") from error


def _how_to_install() -> str:
    """Installation command for the CUDA version that PyTorch was built with."""
    extra = "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda13"
    return f"pip install -e '.[{extra}]'"


def _try_out(engine: CupySearch, device: torch.device) -> None:
    """Match each of eight distinct descriptors against their own map."""
    frame = NetworkFrame((4, 2), (4, 2), (0, 0), (2, 4))
    values = torch.eye(8, device=device).reshape(8, 2, 4)
    described = DescriptorMap(values, torch.ones(2, 4, dtype=torch.bool), frame)
    found = engine.best(torch.eye(8, device=device), engine.prepare(described)).cell.tolist()
    if found != list(range(8)):
        raise RuntimeError(f"a test search returned cells {found} instead of 0 to 7")


def _one_line(error: Exception) -> str:
    """The last non-empty line of an error message, where libraries that tried alternatives state the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-*")]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
