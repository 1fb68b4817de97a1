"""Checkpoints: ours, which hold everything needed to resume a run, and those published with DDL and GIFT.

DDL's files are a dict {model, optimizer, epoch, step, validation}; the keys of `model` start with "module.". GIFT's are
a dict {extractor, embedder, step}. Ours are the same dicts with additional keys, so that the published code can read
our weights. `optimizer` maps the name of each optimizer to its state.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from descriptor.checkpoint_file import PARTS, read_checkpoint_file, shortened, weights_in
from pipeline.errors import LumenError, require
from pipeline.outputs.files import atomic_write
from pipeline.paths import AnyPath

FORMAT_VERSION = 1
_PREFIX = "module."


@dataclass(frozen=True)
class Checkpoint:
    """A network and its training state.

    Attributes:
        model: parameters and buffers of the network by name, without prefixes; float32 and integers.
        epoch, step: training progress, both counted from the start.
        validation: median error of the validation, px; a loss in published files. NaN if unknown.
        method: name of the backend; None if the file does not record it.
        config: settings of the training, builtin types; None for published files.
        optimizer: state of the optimizers, if present.
        training: further state needed to resume (`descriptor.training.trainer`).
    """

    model: dict[str, Tensor]
    epoch: int = 0
    step: int = 0
    validation: float = float("nan")
    method: str | None = None
    config: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, path: AnyPath) -> None:
        """Write the checkpoint atomically, in the published layout with our additions.

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
        with atomic_write(Path(path)) as partial, partial.open("wb") as stream:
            torch.save(content, stream)

    def _weights(self) -> dict[str, Any]:
        """The weights in the published layout of DDL or GIFT, chosen by their names."""
        if not all(name.startswith(PARTS) for name in self.model):
            return {"model": {_PREFIX + name: value for name, value in self.model.items()}}
        parts: dict[str, Any] = {part: {} for part in PARTS}
        for name, value in self.model.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        return parts

    @classmethod
    def load(cls, path: AnyPath) -> "Checkpoint":
        """Read a checkpoint (ours, DDL's or GIFT's) or plain weights (`descriptor.checkpoint_file`) to the CPU.

        Raises:
            LumenError: if the file is missing, truncated, contains code, has no weights, or weights are not finite.
        """
        path = Path(path)
        content = read_checkpoint_file(path)
        model = weights_in(content, path)
        ours = content.get("lumensfm") or {}
        require(
            isinstance(ours, dict) and all(isinstance(ours.get(name), dict | None) for name in ("config", "training")),
            f"{path} is damaged: copy it again, or use an earlier checkpoint",
        )
        version = ours.get("format_version", FORMAT_VERSION)
        require(
            version == FORMAT_VERSION,
            f"{path} has format {shortened(version)}, this version reads {FORMAT_VERSION}: update LumenSfM",
        )
        optimizer = content.get("optimizer")
        return cls(
            model=model,
            epoch=int(_number(content.get("epoch"), 0)),
            step=int(_number(content.get("step"), 0)),
            validation=_number(content.get("validation"), float("nan")),
            method=ours.get("method"),
            config=ours.get("config"),
            optimizer=optimizer if optimizer and isinstance(optimizer, dict) else None,
            training=ours.get("training") or {},
        )


def fill(network: nn.Module, model: dict[str, Tensor], path: Path, called: str) -> None:
    """Load the weights of a checkpoint into a network.

    Args:
        network: the network; its parameters define the expected shapes.
        model: weights of the checkpoint.
        path: path of the checkpoint, for errors.
        called: name of the network, for errors.

    Raises:
        LumenError: if the weights do not fit, naming the first that does not.
    """
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | model.keys()):
        have, want = model.get(name), wanted.get(name)
        if have is None or want is None or have.shape != want.shape:
            raise LumenError(
                f"{path} does not fit {called} at {shortened(name)}: {_shape(have)} in the file, {_shape(want)} in the "
                "network"
            )
    network.load_state_dict(model)


def _shape(value: Tensor | None) -> str:
    return "nothing" if value is None else "x".join(map(str, value.shape)) or "a number"


def _number(value: Any, otherwise: float) -> float:
    """A finite number from a checkpoint, or the default; other programs may store any type under the same key."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    return value if isinstance(value, int | float) and math.isfinite(value) else otherwise
