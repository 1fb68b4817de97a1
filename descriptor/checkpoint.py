"""Checkpoints: ours, which carry all that a run needs to go on, and those published with DDL and with GIFT.

DDL's files are a dict {model, optimizer, epoch, step, validation}; the keys of `model` begin with "module.". GIFT's are
a dict {extractor, embedder, step}. Ours are the same dicts with more in them, so that what reads weights in theirs
reads those in ours; `optimizer` holds the state of each of our optimizers by its name.
"""

import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import LumenError, explain_os_errors
from pipeline.files import atomic_write

FORMAT_VERSION = 1
_PREFIX = "module."
# What GIFT's files hold the weights of apart from each other.
_PARTS = ("extractor", "embedder")
_AGAIN = "if it was cut off while copying, copy it again"


@dataclass(frozen=True)
class Checkpoint:
    """A network in training.

    Attributes:
        model: the network's parameters and buffers by name, without the published prefix.
        epoch, step: how far it has been trained, both counted from the start.
        validation: what was best last; as published, a loss. NaN if unknown.
        method: the backend that it belongs to; None if the file does not say.
        config: the settings it was trained with, builtin types; None for published files.
        optimizer: the optimizer's state, if it is there.
        training: whatever else going on needs (`descriptor.trainer`).
    """

    model: dict[str, Tensor]
    epoch: int = 0
    step: int = 0
    validation: float = float("nan")
    method: str | None = None
    config: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it atomically, in the published layout with our additions.

        Raises:
            LumenError: if it cannot be written.
        """
        content = self._weights() | {
            "optimizer": self.optimizer or {},
            "epoch": self.epoch,
            "step": self.step,
            "validation": self.validation,
            "lumensfm": {
                "format_version": FORMAT_VERSION,
                "method": self.method,
                "config": self.config,
                "training": self.training,
            },
        }
        with atomic_write(path) as partial, partial.open("wb") as stream:
            torch.save(content, stream)

    def _weights(self) -> dict[str, Any]:
        """The weights in the layout that was published with networks of these names."""
        if not all(name.startswith(_PARTS) for name in self.model):
            return {"model": {_PREFIX + name: value for name, value in self.model.items()}}
        parts: dict[str, Any] = {part: {} for part in _PARTS}
        for name, value in self.model.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        return parts

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint of ours, of DDL's or of GIFT's, on the CPU, without running any code that is in it.

        Raises:
            LumenError: if it is missing, cut off, holds code, or is no checkpoint of this kind.
        """
        content = read_checkpoint_file(path)
        model = _published_weights(content)
        if model is None or not all(isinstance(each, Tensor) for each in model.values()):
            raise LumenError(
                f"{path} is no checkpoint of a descriptor: it holds {', '.join(map(str, content)) or 'nothing'}"
            )
        ours = content.get("lumensfm") or {}
        if not isinstance(ours, dict):
            raise LumenError(f"{path} is damaged or no checkpoint: {_AGAIN}")
        version = ours.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise LumenError(f"{path} is of format {version}, this version reads {FORMAT_VERSION}: update LumenSfM")
        return cls(
            model=model,
            epoch=int(content.get("epoch") or 0),
            step=int(content.get("step") or 0),
            validation=float("nan") if content.get("validation") is None else float(content["validation"]),
            method=ours.get("method"),
            config=ours.get("config"),
            optimizer=content.get("optimizer") or None,
            training=ours.get("training") or {},
        )


def fill(network: nn.Module, model: dict[str, Tensor], path: Path, called: str) -> None:
    """Put the weights of a checkpoint into a network.

    Args:
        network: of the shape that the weights should have.
        model: a checkpoint's.
        path: of the checkpoint.
        called: what to call the network in an error.

    Raises:
        LumenError: if they do not fit, naming the first that does not.
    """
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | model.keys()):
        have, want = model.get(name), wanted.get(name)
        if have is None or want is None or have.shape != want.shape:
            raise LumenError(
                f"{path} does not fit {called} at {name}: {_shape(have)} in the file, {_shape(want)} in the network"
            )
    network.load_state_dict(model)


def _shape(value: Tensor | None) -> str:
    return "nothing" if value is None else "x".join(map(str, value.shape)) or "a number"


def _published_weights(content: dict[str, Any]) -> dict[str, Any] | None:
    """The weights by name in a file's content; None if it holds none in a layout that is known."""
    if isinstance(content.get("model"), dict):
        return {str(name).removeprefix(_PREFIX): value for name, value in content["model"].items()}
    parts = [content.get(part) for part in _PARTS]
    if not all(isinstance(part, dict) for part in parts):
        return None
    return {
        f"{name}.{key}": value
        for name, part in zip(_PARTS, parts, strict=True)
        for key, value in part.items()  # type: ignore[union-attr]
    }


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """The dict in a file of torch's, tensors on the CPU; only plain types and tensors are built.

    Raises:
        LumenError: if it is missing, cut off, holds code, or holds something else than a dict.
    """
    with explain_os_errors("read", path), path.open("rb") as stream, warnings.catch_warnings():
        # Of an unusual pickle protocol: what it cannot open is refused below.
        warnings.simplefilter("ignore", UserWarning)
        try:
            content = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise LumenError(
                f"{path} holds more than numbers, which could run code, and was not opened: get the weights from where "
                "they come from as a plain state dict"
                if "Unsupported" in str(error) or "GLOBAL" in str(error)
                else f"{path} is damaged or no checkpoint: {_AGAIN}"
            ) from error
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise LumenError(f"{path} is damaged or no checkpoint: {_AGAIN}") from error
    if not isinstance(content, dict):
        raise LumenError(f"{path} is no checkpoint: it holds a {type(content).__name__}")
    return content
