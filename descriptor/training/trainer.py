"""The training loop: steps depend only on the seed and the step number, so that a run can resume at any step."""

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from descriptor.checkpoint import Checkpoint
from descriptor.training.distributed import Processes
from descriptor.training.inputs import TrainingInputs
from descriptor.training.log import TrainingLog
from descriptor.training.paths import RunFolder
from descriptor.training.recorded_settings import recorded
from pipeline.arrays import Bytes
from pipeline.command.interruption import stop_request
from pipeline.errors import LumenError
from pipeline.progress import ProgressBar

_SECONDS_BETWEEN_CHECKPOINTS = 300.0
_MAX_GRADIENT = 10.0
_PREPARED_STEPS = 2

logger = logging.getLogger(__name__)


class TrainerSettings(Protocol):
    """Settings of the training loop, for all methods."""

    @property
    def num_epoch(self) -> int: ...
    @property
    def num_iter(self) -> int: ...
    @property
    def max_minutes(self) -> float | None: ...
    @property
    def num_workers(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def validation_interval(self) -> int: ...
    @property
    def display_interval(self) -> int: ...
    @property
    def record_path(self) -> bool: ...


class Figures(Protocol):
    """Results of a validation: a dataclass with a one-line `str`.

    Attributes:
        pck: shares of correct points at increasing thresholds; the first determines the best checkpoint.
    """

    @property
    def pck(self) -> tuple[float, ...]: ...
    @property
    def median_px(self) -> float: ...
    @property
    def consistent(self) -> float: ...


class TrainingMethod(Protocol):
    """Interface of a training method.

    Attributes:
        name: name of the backend in checkpoints.
        network: the network on its device, in training mode; parameters that require gradients are trained.
        parts: number of parts that the data of a step are divided into; each process takes some.
        thresholds_px: thresholds of the `pck` of validations.
    """

    @property
    def name(self) -> str: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def parts(self) -> int: ...
    @property
    def thresholds_px(self) -> tuple[int, ...]: ...

    def draw(self, step: int, number: int) -> Any:
        """Draw one part of a step's data; None if no sample is found. Called from several threads."""

    def loss(self, part: Any, step: int, share: float) -> Tensor:
        """The mean loss over the points of a part, at a step and a completed share 0..1 of the training."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimizers by name; checkpoints store their state under the name."""

    def rates(self, share: float, step: int) -> Mapping[str, float]:
        """Learning rate of each optimizer at a completed share 0..1 of the training; the first is logged."""

    def settle(self) -> None:
        """Prepare the network for inference with the current weights."""

    def validate(self) -> Figures:
        """Match points of a fixed data set; the network is left in training mode."""

    def plots(self) -> dict[str, Bytes]:
        """Images for TensorBoard, by name."""

    def arrays(self, part: Any) -> dict[str, np.ndarray]:
        """Arrays of a part of the data, saved for inspection."""

    def starting_from(self, weights: Path) -> str:
        """Flags that start another run from weights, with a change that helps if the loss was not finite."""


@dataclass
class TrainingState:
    """Progress of a run, stored in checkpoints beside weights and optimizers.

    Attributes:
        step: completed steps.
        elapsed_s: training time including validations, summed over interruptions.
        best: highest share of points within the first threshold so far.
        history: results of each validation.
    """

    step: int = 0
    elapsed_s: float = 0.0
    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains a network.

    Args:
        config: all settings, a dataclass.
        method: network and data.
        device: device of the network.
        processes: the processes of the training.
        folder: output folder.
        inputs: fingerprints of the inputs.
    """

    def __init__(
        self,
        config: TrainerSettings,
        method: TrainingMethod,
        device: torch.device,
        processes: Processes,
        folder: RunFolder,
        inputs: TrainingInputs,
    ) -> None:
        self._config, self._method, self._network = config, method, method.network
        self._device, self._processes, self._folder, self._inputs = device, processes, folder, inputs
        self.state = TrainingState()
        self._trained = [each for each in self._network.parameters() if each.requires_grad]
        self._optimizers = method.optimizers()
        self._stop_requested = False
        self._share = 0.0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint of this run."""
        self._network.load_state_dict(checkpoint.model)
        states = checkpoint.optimizer or {}
        if states.keys() != self._optimizers.keys():
            raise LumenError(
                f"{self._folder.last} lacks the optimizer state needed to resume: choose another --log_root, with "
                f"{self._method.starting_from(self._folder.last)}"
            )
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(states[name])
        self.state = TrainingState(**checkpoint.training["state"])

    def run(self) -> None:
        """Train to the end, or until a signal requests a stop.

        Raises:
            LumenError: if the loss or its gradient is not finite; the batch is saved.
        """
        config, state = self._config, self.state
        total = config.num_epoch * config.num_iter if config.max_minutes is None else None
        self._share = self._share_done()
        saved = last = time.monotonic()
        with (
            stop_request.finishing("stopping after this step; another signal stops at once"),
            self._log() as log,
            ProgressBar("training", total=total, unit="step", done=state.step) as bar,
        ):
            for parts in self._prepared(total):
                rates = self._method.rates(self._share, state.step)
                loss = self._step(parts, rates)
                state.step += 1
                # --max_minutes is wall-clock time, so waiting for data and validation count.
                state.elapsed_s, last = state.elapsed_s + time.monotonic() - last, time.monotonic()
                bar.update()
                log.step(state.step, loss, next(iter(rates.values())), state.elapsed_s)
                if state.step % (config.num_iter * config.validation_interval) == 0:
                    self._validate(log)
                    saved = time.monotonic()
                elif time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    self.save()
                    saved = time.monotonic()
                if self._must_stop():
                    break
            if not state.history or state.history[-1]["step"] != state.step:
                # Saved before the validation, because the user may stop the process before it ends.
                self.save()
                self._validate(log)

    @property
    def was_stopped(self) -> bool:
        """Whether a signal requested a stop, in this or another process; the last checkpoint is written."""
        return self._stop_requested or bool(stop_request)

    @property
    def is_done(self) -> bool:
        """Whether the training is complete."""
        return self._share_done() >= 1

    def save(self) -> None:
        """Write the last checkpoint, with statistics of the current weights."""
        self._write(self._folder.last)

    def _share_done(self) -> float:
        config = self._config
        if config.max_minutes is not None:
            return min(1.0, self.state.elapsed_s / 60 / config.max_minutes)
        return min(1.0, self.state.step / (config.num_epoch * config.num_iter))

    def _log(self) -> TrainingLog:
        config = self._config
        intervals = (config.display_interval, config.num_iter)
        return TrainingLog(self._folder, *intervals, config.batch_size, self.state.step, self._processes.is_first)

    def _prepared(self, total: int | None) -> Iterator[list[Any]]:
        """This process's parts of the data of each remaining step, drawn ahead of time."""
        steps = count(self.state.step) if total is None else range(self.state.step, total)
        if self._share_done() >= 1:
            return
        with ThreadPoolExecutor(max(1, self._config.num_workers)) as pool:
            waiting: list[Future[list[Any]]] = []
            try:
                for step in steps:
                    waiting.append(pool.submit(self._draw, step))
                    if len(waiting) > _PREPARED_STEPS:
                        yield waiting.pop(0).result()
                for future in waiting:
                    yield future.result()
            finally:
                for future in waiting:
                    future.cancel()

    def _draw(self, step: int) -> list[Any]:
        mine = range(self._processes.rank, self._method.parts, self._processes.count)
        return [part for part in (self._method.draw(step, number) for number in mine) if part is not None]

    def _step(self, parts: list[Any], rates: Mapping[str, float]) -> float:
        """Take one optimizer step; return the loss averaged over all parts of all processes."""
        self._network.zero_grad()
        total = torch.zeros((), device=self._device)
        for part in parts:
            loss = self._method.loss(part, self.state.step, self._share) / self._method.parts
            loss.backward()
            total += loss.detach()
        gradients = [_gradient(parameter) for parameter in self._trained]
        self._processes.sum([*gradients, total])
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self._trained, _MAX_GRADIENT)
        if not torch.isfinite(norm + total):
            raise self._not_a_number(parts, float(total))
        for name, optimizer in self._optimizers.items():
            for settings in optimizer.param_groups:
                settings["lr"] = rates[name]
            optimizer.step()
        return float(total)

    def _not_a_number(self, parts: list[Any], loss: float) -> LumenError:
        """Save the batch and the weights before it; return the error that reports them."""
        path = self._folder.bad_batch(self._processes.rank)
        arrays = {
            f"{name}_{number}": array
            for number, part in enumerate(parts)
            for name, array in self._method.arrays(part).items()
        }
        self._folder.save_arrays(path, arrays)
        if self._processes.is_first:
            self.save()
        return LumenError(
            f"the loss ({loss}) or its gradient is not finite at step {self.state.step}; the batch is in {path}. "
            "Continue from the previous weights in another --log_root, with "
            f"{self._method.starting_from(self._folder.last)}"
        )

    def _validate(self, log: TrainingLog) -> None:
        self._method.settle()
        found = self._method.validate()
        state = self.state
        state.history.append({"step": state.step, "elapsed_s": state.elapsed_s, **asdict(found)})  # type: ignore[call-overload]
        log.validation(state.history, self._method.thresholds_px, self._method.plots)
        if self._processes.is_first:
            minutes = state.elapsed_s / 60
            logger.info("step %d, %.1f minutes: %s", state.step, minutes, found)
            is_best = found.pck[0] > state.best
            state.best = max(state.best, found.pck[0])
            if is_best:
                self._write(self._folder.best, found, settle=False)
            # Written after the best checkpoint, because it records the best result.
            self._write(self._folder.last, found, settle=False)
        self._processes.wait()

    def _write(self, path: Path, found: Figures | None = None, *, settle: bool = True) -> None:
        if not self._processes.is_first:
            return
        if settle:
            self._method.settle()
        state = self.state
        Checkpoint(
            model=self._network.state_dict(),
            epoch=state.step // self._config.num_iter,
            step=state.step,
            validation=found.median_px if found else float("nan"),
            method=self._method.name,
            config=recorded(self._config),
            optimizer={name: each.state_dict() for name, each in self._optimizers.items()},
            training={"state": asdict(state), "inputs": self._inputs.to_mapping()},
        ).save(path)

    def _must_stop(self) -> bool:
        """Whether to stop at this step; all processes decide alike."""
        # In double precision, as in a resumed run.
        state = [float(bool(stop_request)), self._share_done()]
        wanted = torch.tensor(state, dtype=torch.float64, device=self._device)
        self._processes.sum([wanted])
        self._stop_requested = bool(wanted[0] > 0)
        # The mean over processes, so that all use the same learning rate.
        self._share = float(wanted[1]) / self._processes.count
        return self._stop_requested or self._share >= 1


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
