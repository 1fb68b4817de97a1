"""A training run of any method: start or resume, train, report."""

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

# Settings that may change when a run of any method is resumed.
_FREE_TO_CHANGE = {"method", "device", "num_workers", "display_interval", "validation_interval", "record_path"}

logger = logging.getLogger(__name__)


class RunSettings(TrainerSettings, Protocol):
    """Settings of a run, in addition to those of its loop."""

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
class InitialState:
    """Initial state of a run.

    Attributes:
        config: the resolved settings.
        method: network and data.
        checkpoint: checkpoint to resume from, if any.
        inputs: fingerprints of the inputs.
        counts: counts for the report.
    """

    config: RunSettings
    method: TrainingMethod
    checkpoint: Checkpoint | None
    inputs: TrainingInputs
    counts: Mapping[str, int]


def run_training(
    config: RunSettings,
    begin: Callable[[torch.device, Processes, RunFolder, StageReport], InitialState],
) -> list[Path]:
    """Train until done or stopped; a run in the same folder with the same settings is resumed.

    Args:
        config: the settings.
        begin: reads data and weights.

    Returns:
        Paths of the best and the last checkpoint.

    Raises:
        Interrupted: if a signal stopped the run; its last checkpoint is written.
        LumenError: if data, settings or checkpoint do not fit, or the loss is not finite.
    """
    report = StageReport("train")
    keep_freed_memory()
    device = choose_local_device(choose_device(config.device))
    folder = RunFolder(config.log_root)
    with join_processes(device) as processes, _claimed_by_first(config, folder, processes):
        torch.manual_seed(config.seed)
        initial = begin(device, processes, folder, report)
        trainer = Trainer(initial.config, initial.method, device, processes, folder, initial.inputs)
        if initial.checkpoint is not None:
            trainer.resume(initial.checkpoint)
            logger.info("resuming from step %d of %s", trainer.state.step, folder.last)
        if processes.is_first:
            save_recorded(initial.config, folder.config)
        with report.timed("train"):
            trainer.run()
        if processes.is_first:
            report.counts |= {"steps": trainer.state.step, **initial.counts, **trainer.state.history[-1]}
            report.save(folder.report)
        if trainer.was_stopped:
            what = "the finished training" if trainer.is_done else f"step {trainer.state.step}"
            raise Interrupted(f"{what} is saved in {folder.last}; run the same command to continue")
    return [folder.best, folder.last]


def check_same_run(config: Any, checkpoint: Checkpoint, folder: RunFolder, free: Collection[str] = ()) -> None:
    """Check that the settings equal those of the checkpoint to resume from, except those that may change.

    Settings missing from the checkpoint, because its version did not have them, count as the default. Paths are not
    compared: `TrainingInputs` compares the content.

    Raises:
        LumenError: naming the first setting that differs.
    """
    private = private_names(type(config))
    if "inputs" not in checkpoint.training:
        # Only the patient names identify the training data.
        private -= set(getattr(config, "PRIVATE", ()))
    before = {each.name: each.default for each in fields(config) if each.default is not MISSING}
    before = to_mapping(before) | (checkpoint.config or {})
    for name, now in to_mapping(config).items():
        if name not in _FREE_TO_CHANGE | private | set(free) and before.get(name) != now:
            raise LumenError(
                f"{folder.root} contains a run with --{name} {before.get(name)}, now it is {now}: choose another "
                "--log_root, or give the same settings to resume"
            )


def _claimed_by_first(config: RunSettings, folder: RunFolder, processes: Processes) -> AbstractContextManager[None]:
    """Lock the folder of the run in the first process; when resuming, the starting weights may lie inside it."""
    if not processes.is_first:
        return nullcontext()
    weights = None if folder.last.exists() else config.trained_model_path
    return log_folder(folder.root, (config.training_data_root, weights))
