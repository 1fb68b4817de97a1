"""Reads weight files of torch and safetensors without executing code in them.

torch's restricted unpickler builds only tensors and plain types. Some trainings, such as DDL's, also save NumPy
scalars. The stand-ins below read these without calling NumPy functions from the file.
"""

import pickle
import re
import struct
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.errors import LumenError, explain_os_errors, require

# GIFT's files store the weights of these networks separately.
PARTS = ("extractor", "embedder")
# Common keys for the weights in a training checkpoint.
_WEIGHTS = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "params")
# Name components added by DataParallel, torch.compile, FSDP and activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_DAMAGED = "is damaged or not a checkpoint: if copying was interrupted, copy it again"
_CODE = "contains objects that could run code and was not opened: save the state_dict() of the network instead"
# Exceptions that torch's reader raises for damaged files.
_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(
        OverflowError,
        MemoryError,
        struct.error,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ),
)


def read_checkpoint_file(path: Path) -> dict[Any, Any]:
    """Read the dict in a torch or safetensors file, with tensors on the CPU; only plain types and tensors are built.

    Raises:
        LumenError: if the file is missing, truncated, contains code, or is not a dict.
    """
    with explain_os_errors("read", path), path.open("rb") as stream:
        start = stream.read(9)
    is_safetensors = start[8:] == b"{"
    if start[:4] == b"PK\3\4" and (names := _names_in_zip(path)):
        require(
            not any(name.endswith("/constants.pkl") for name in names), f"{path} is a TorchScript archive and {_CODE}"
        )
        require(any(name.endswith("/data.pkl") for name in names), f"{path} is a zip archive without a checkpoint")
    try:
        content = safetensors.torch.load_file(path) if is_safetensors else _load(path)
    except _UNREADABLE as error:
        raise LumenError(f"{path} {_CODE if _is_refusal(error) else _DAMAGED}") from error
    if not isinstance(content, dict):
        raise LumenError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content


def weights_in(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Extract the weights by name from the content of a checkpoint file of any layout, without wrapper prefixes.

    Floating-point numbers become float32.

    Raises:
        LumenError: if there are no weights, one is not finite or not a plain tensor, or two have the same name.
    """
    found = _find(content)
    if not found:
        raise LumenError(f"{path} contains no network weights; it contains {listed(content)}")
    weights = _without_prefix({_unwrapped(name): _as_weight(name, value, path) for name, value in found.items()})
    require(len(weights) == len(found), f"{path} contains the weights of more than one network: save only one of them")
    return weights


def listed(names: Iterable[Any]) -> str:
    """Names from a file on one line of about 120 characters at most."""
    return textwrap.shorten(", ".join(shortened(name) for name in names), 120, placeholder=" ...") or "nothing"


def shortened(name: Any) -> str:
    """A name from a file on one line of at most 80 characters."""
    return text if len(text := " ".join(str(name).split())) <= 80 else f"{text[:77]}..."


def _names_in_zip(path: Path) -> list[str]:
    """The names in a zip archive; empty if its directory is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _UNREADABLE:
        return []


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals(_NUMPY), warnings.catch_warnings():
        # Warnings about unusual pickle protocols are irrelevant: torch refuses what it cannot open.
        warnings.simplefilter("ignore", UserWarning)
        # The encoding applies only to Python 2 strings; latin1 maps every byte.
        return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")


def _is_refusal(error: BaseException) -> bool:
    """Whether torch refused to build an object, rather than failed to read the file."""
    return isinstance(error, pickle.UnpicklingError) and bool(
        re.search(r"GLOBAL|reduce for|Can only (build|create)", str(error))
    )


def _find(content: Mapping[Any, Any], depth: int = 3) -> dict[str, Any] | None:
    """Find the weights: in GIFT's layout, under a common key, in the only state dict, or as a plain state dict."""
    if not depth:
        return None
    parts = {part: content.get(part) for part in PARTS}
    if all(isinstance(each, Mapping) for each in parts.values()):
        return {f"{part}.{name}": value for part, each in parts.items() for name, value in each.items()}  # type: ignore[union-attr]
    for key in _WEIGHTS:
        if isinstance(content.get(key), Mapping) and (found := _find(content[key], depth - 1)):
            return found
    nested = [each for each in content.values() if isinstance(each, Mapping) and _is_state_dict(each)]
    if len(nested) == 1:
        return dict(nested[0])
    return {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefix that all names share, such as `model.` of a network wrapped in another module."""
    while True:
        first = {name.partition(".")[0] for name in weights}
        if len(first) != 1 or first <= set(PARTS) or not all("." in name for name in weights):
            return weights
        weights = {name.partition(".")[2]: value for name, value in weights.items()}


def _as_weight(name: str, value: Any, path: Path) -> Tensor:
    where = f"{path}: {shortened(name)}"
    require(isinstance(value, Tensor), f"{where} is not a tensor")
    is_plain = value.layout == torch.strided and not value.is_meta and value.dtype in (*_FLOATS, *_INTEGERS)
    require(is_plain, f"{where} is a {value.dtype} tensor, {value.layout} on {value.device}: expected plain numbers")
    number: Tensor = value.detach().float() if value.dtype in _FLOATS else value.detach()
    require(
        bool(torch.isfinite(number).all()),
        f"{where} contains NaN or infinity, as after a diverged training: use an earlier checkpoint",
    )
    return number


class _NumberType:
    """Stand-in for numpy.dtype: kind, size and byte order of a NumPy scalar."""

    def __init__(self, code: str, *_: Any) -> None:
        self._code, self._order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = ">" if state[1] == ">" else "<"

    def number(self, data: bytes) -> int | float | complex | bool | None:
        """Decode a number from its bytes; None for other types, such as text or times."""
        if not re.fullmatch(r"[biufc]\d\d?", self._code):
            return None
        as_number = {"b": bool, "f": float, "c": complex}.get(self._code[0], int)
        return as_number(np.frombuffer(data, self._order + self._code)[0])


class _Array:
    """Stand-in for numpy.ndarray: arrays beside the weights are not needed."""

    def __setstate__(self, state: Any) -> None:
        del state


def _scalar(kind: _NumberType, data: bytes | str) -> int | float | complex | bool | None:
    return kind.number(data.encode("latin1") if isinstance(data, str) else data)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


# NumPy 1 and 2 have these functions in different modules.
_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumberType, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
