"""A training from folder to checkpoints, whatever the method: begun, gone on with, stopped, reported."""

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from descriptor.checkpoint import Checkpoint
from descriptor.device import choose_device, keep_freed_memory
from descriptor.training.distributed import Processes, choose_local_device, join_processes
from descriptor.training.inputs import TrainingInputs
from descriptor.training.log_folder import log_folder
from descriptor.training.paths import RunFolder
from descriptor.training.recorded_settings import private_names, save_recorded
from descriptor.training.trainer import Trainer, TrainerSettings, TrainingMethod
from pipeline.command.config import to_mapping
from pipeline.errors import Interrupted, LumenError
from pipeline.report import StageReport

# What may differ between a run and the one that goes on with it, whatever the method.
_FREE_TO_CHANGE = {"method", "device", "num_workers", "display_interval", "validation_interval", "record_path"}

logger = logging.getLogger(__name__)


class RunSettings(TrainerSettings, Protocol):
    """What a run reads besides of what its loop does."""

    @property
    def log_root(self) -> Path: ...
    @property
    def training_data_root(self) -> Path: ...
    @property
    def trained_model_path(self) -> Path | None: ...
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
        inputs: what the training depends on besides its settings.
        counts: for the report.
    """

    config: RunSettings
    method: TrainingMethod
    checkpoint: Checkpoint | None
    inputs: TrainingInputs
    counts: Mapping[str, int]


def run_training(
    config: RunSettings,
    begin: Callable[[torch.device, Processes, RunFolder, StageReport], Beginning],
) -> list[Path]:
    """Train until done or stopped; a run in the same folder with the same settings goes on where it was.

    Args:
        config: the settings.
        begin: reads data and weights.

    Returns:
        The checkpoints: best, last.

    Raises:
        Interrupted: if a signal stopped it; its last checkpoint is written.
        LumenError: if data, settings or checkpoint do not fit, or the loss is no number.
    """
    report = StageReport("train")
    keep_freed_memory()
    device = choose_local_device(choose_device(config.device))
    folder = RunFolder(config.log_root)
    with join_processes(device) as processes, _claimed_by_first(config, folder, processes):
        torch.manual_seed(config.seed)
        begun = begin(device, processes, folder, report)
        trainer = Trainer(begun.config, begun.method, device, processes, folder, begun.inputs)
        if begun.checkpoint is not None:
            trainer.resume(begun.checkpoint)
            logger.info("going on from step %d of %s", trainer.state.step, folder.last)
        if processes.is_first:
            save_recorded(begun.config, folder.config)
        with report.timed("train"):
            trainer.run()
        if processes.is_first:
            report.counts |= {"steps": trainer.state.step, **begun.counts, **trainer.state.history[-1]}
            report.save(folder.report)
        if trainer.was_stopped:
            what = "the training is done" if trainer.is_done else f"step {trainer.state.step} is saved"
            raise Interrupted(f"{what} in {folder.last}; the same command continues from there")
    return [folder.best, folder.last]


def check_same_run(config: Any, checkpoint: Checkpoint, folder: RunFolder, free: Collection[str] = ()) -> None:
    """See that a run's settings are those of the checkpoint it resumes from, except some that may change.

    Settings that the checkpoint does not have, because its version had none of that name, count as the default. Paths
    are not compared: `TrainingInputs` compares what they lead to.

    Raises:
        LumenError: naming the first that is not.
    """
    private = private_names(type(config))
    if "inputs" not in checkpoint.training:
        # What is trained on is known by the names of the patients alone.
        private -= set(getattr(config, "PRIVATE", ()))
    before = {each.name: each.default for each in fields(config) if each.default is not MISSING}
    before = to_mapping(before) | (checkpoint.config or {})
    for name, now in to_mapping(config).items():
        if name not in _FREE_TO_CHANGE | private | set(free) and before.get(name) != now:
            raise LumenError(
                f"{folder.root} holds a run with --{name} {before.get(name)}, this one has {now}: choose another "
                "--log_root, or give the same settings to resume it"
            )


def _claimed_by_first(config: RunSettings, folder: RunFolder, processes: Processes) -> AbstractContextManager[None]:
    """The run's folder is claimed by the first process; weights in it belong to the run that is resumed."""
    if not processes.is_first:
        return nullcontext()
    weights = None if folder.last.exists() else config.trained_model_path
    return log_folder(folder.root, (config.training_data_root, weights))
