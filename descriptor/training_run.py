"""A training from folder to checkpoints, whatever the method: begun, gone on with, stopped, reported."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from descriptor.checkpoint import Checkpoint
from descriptor.device import choose_device, keep_freed_memory
from descriptor.distributed import Processes, choose_local_device, join_processes
from descriptor.trainer import Trainer, TrainerSettings, TrainingMethod
from descriptor.training_paths import RunFolder
from pipeline.config import save_config, to_mapping
from pipeline.errors import LumenError, explain_os_errors
from pipeline.locks import held
from pipeline.report import StageReport

# What may differ between a run and the one that goes on with it, whatever the method.
_FREE_TO_CHANGE = ("method", "device", "num_workers", "display_interval", "log_root", "validation_interval")

logger = logging.getLogger(__name__)


class RunSettings(TrainerSettings, Protocol):
    """What a run reads besides of what its loop does."""

    @property
    def log_root(self) -> Path: ...
    @property
    def device(self) -> Any: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    Attributes:
        config: the settings as they are used.
        method: what is trained, and on what.
        checkpoint: of this run, to go on from.
        counts: for the report.
    """

    config: RunSettings
    method: TrainingMethod
    checkpoint: Checkpoint | None
    counts: Mapping[str, int]


def run_training(
    config: RunSettings,
    begin: Callable[[torch.device, Processes, RunFolder, StageReport], Beginning],
    *,
    to_the_end: bool = False,
) -> list[Path]:
    """Train until done or stopped; a run in the same folder with the same settings goes on where it was.

    Args:
        config: the settings.
        begin: reads data and weights.
        to_the_end: a training that was stopped by a signal is of no use.

    Returns:
        The checkpoints: best, last.

    Raises:
        KeyboardInterrupt: if it was stopped, and was to go to the end.
        LumenError: if data, settings or checkpoint do not fit, or the loss is no number.
    """
    report = StageReport("train")
    keep_freed_memory()
    device = choose_local_device(choose_device(config.device))
    folder = RunFolder(config.log_root)
    with join_processes(device) as processes, _held_by_first(folder, processes):
        torch.manual_seed(config.seed)
        begun = begin(device, processes, folder, report)
        trainer = Trainer(begun.config, begun.method, device, processes, folder)
        if begun.checkpoint is not None:
            trainer.resume(begun.checkpoint)
            logger.info("going on from step %d of %s", trainer.state.step, folder.last)
        if processes.is_first:
            save_config(begun.config, folder.config)
        with report.timed("train"):
            trainer.run()
        if trainer.was_stopped:
            logger.info("stopped at step %d; the same command goes on from there", trainer.state.step)
        if processes.is_first:
            report.counts |= {"steps": trainer.state.step, **begun.counts, **trainer.state.history[-1]}
            report.save(folder.report)
        if trainer.was_stopped and to_the_end:
            raise KeyboardInterrupt
    return [folder.best, folder.last]


def check_same_run(config: Any, checkpoint: Checkpoint, folder: RunFolder, free: Collection[str] = ()) -> None:
    """See that a run's settings are those of the checkpoint that it goes on from, but for some that are free.

    Settings that its version did not have are taken to be as by default.

    Raises:
        LumenError: naming the first that is not.
    """
    named = checkpoint.config or {}
    defaults = {each.name: each.default for each in fields(config) if each.default is not MISSING}
    unnamed = {name: value for name, value in defaults.items() if name not in named}
    before, now = to_mapping(replace(config, **unnamed)) | dict(named), to_mapping(config)
    for name, value in now.items():
        is_free = name in _FREE_TO_CHANGE or name in free
        if not is_free and before.get(name) != value and not _is_same_path(before.get(name), value):
            raise LumenError(
                f"{folder.root} holds a run with --{name} {before.get(name)}, this one has {value}: choose another "
                "--log_root, or give the same settings to go on with it"
            )


def _is_same_path(before: Any, now: Any) -> bool:
    """Whether both are texts that name the same place."""
    return isinstance(before, str) and isinstance(now, str) and Path(before).resolve() == Path(now).resolve()


@contextmanager
def _held_by_first(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """The run's folder is one run's at a time."""
    if not processes.is_first:
        yield
        return
    with explain_os_errors("write", folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    with held(folder.root, busy=f"another process is training in {folder.root}: wait for it, or choose another"):
        yield
