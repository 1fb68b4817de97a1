"""The training loop: steps that depend on the seed and their number alone, checkpoints that go on from any of them."""

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from types import FrameType
from typing import Any

import numpy as np
import torch

from descriptor.augmentation import augment
from descriptor.batch_statistics import estimate_statistics
from descriptor.checkpoint import Checkpoint
from descriptor.clip import Clip
from descriptor.distributed import Processes
from descriptor.fcdensenet import FCDenseNet
from descriptor.fcdensenet_descriptor import METHOD
from descriptor.group_loss import group_loss
from descriptor.groups import Group, GroupSampler
from descriptor.learning_rate import learning_rate
from descriptor.muon import Muon
from descriptor.training_config import TrainConfig
from descriptor.training_log import TrainingLog
from descriptor.training_paths import RunFolder
from descriptor.validation import Validation, validate
from pipeline.config import to_mapping
from pipeline.errors import LumenError
from pipeline.progress import ProgressBar

# Whatever the groups trained on, so that runs can be compared.
_VALIDATION_GROUPS, _VALIDATION_FRAMES = 8, 8
_SECONDS_BETWEEN_CHECKPOINTS = 300.0
_MAX_GRADIENT = 10.0
_PREPARED_STEPS = 2
# Muon's rate by that of the parameters that AdamW changes; twice as much of both finds no more points.
_KERNEL_RATE = 3.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frames:
    """Clips, and the rows of each that may be used."""

    clips: Sequence[Clip]
    rows: Sequence[np.ndarray]


@dataclass
class TrainingState:
    """How far a run is; what a checkpoint keeps besides the weights and the optimizer.

    Attributes:
        step: steps done.
        elapsed_s: time spent, validations included, over all interruptions.
        best: the highest share of points within the first threshold so far.
        history: of each validation.
    """

    step: int = 0
    elapsed_s: float = 0.0
    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains a network on groups of frames.

    Args:
        config: all settings.
        network: on its device.
        training: the frames to train on.
        validation: the frames to validate on.
        device: where the network is.
        processes: that train together.
        folder: where files go.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: FCDenseNet,
        training: Frames,
        validation: Frames,
        device: torch.device,
        processes: Processes,
        folder: RunFolder,
    ) -> None:
        self._config, self._network, self._training = config, network, training
        self._device, self._processes, self._folder = device, processes, folder
        self.state = TrainingState()
        frames = config.frames_per_group
        self._groups = 2 * config.batch_size // frames
        self._sampler = _sampler(config, training, frames, config.seed)
        _require_pairs(self._sampler.draw(0, 0), config)
        self._validation = _validation_groups(config, validation)
        self._optimizers = _make_optimizers(config, network)
        self._stop_requested = False
        self._share = 0.0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from where a checkpoint of this run was made."""
        self._network.load_state_dict(checkpoint.model)
        states = checkpoint.optimizer or {}
        if states.keys() != self._optimizers.keys():
            raise LumenError(
                f"{self._folder.last} does not hold what its optimizer needs to go on: choose another --log_root, and "
                "start from its weights with --load_trained_model"
            )
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(states[name])
        self.state = TrainingState(**checkpoint.training["state"])

    def run(self) -> None:
        """Train to the end, or until a signal asks to stop.

        Raises:
            LumenError: if the loss or its gradient is no number any more; the batch is kept.
        """
        config, state = self._config, self.state
        total = config.num_epoch * config.num_iter if config.max_minutes is None else None
        self._share = self._share_done()
        saved = last = time.monotonic()
        with (
            self._stopping_on_signals(),
            TrainingLog(self._folder, config, state.step, self._processes.is_first) as log,
            ProgressBar("training", total=total, unit="step", done=state.step) as bar,
        ):
            for groups in self._prepared(total):
                cycle = state.step % config.num_iter / config.num_iter
                rate = learning_rate(config.optimizer, *config.lr_range, self._share, cycle)
                loss = self._step(groups, rate)
                state.step += 1
                # Waiting for data and validating count too: --max_minutes are those of the clock.
                state.elapsed_s, last = state.elapsed_s + time.monotonic() - last, time.monotonic()
                bar.update()
                log.step(state.step, loss, rate, state.elapsed_s)
                if state.step % (config.num_iter * config.validation_interval) == 0:
                    self._validate(log)
                    saved = time.monotonic()
                elif time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                    self.save()
                    saved = time.monotonic()
                if self._must_stop():
                    break
            if not state.history or state.history[-1]["step"] != state.step:
                # First what was trained: whoever asks to stop may not wait for more.
                self.save()
                self._validate(log)

    @property
    def was_stopped(self) -> bool:
        """Whether a signal ended `run` before the training was done."""
        return self._stop_requested and self._share_done() < 1

    def save(self) -> None:
        """Write the last checkpoint, with the statistics of the weights as they are."""
        self._write(self._folder.last)

    def _share_done(self) -> float:
        config = self._config
        if config.max_minutes is not None:
            return min(1.0, self.state.elapsed_s / 60 / config.max_minutes)
        return min(1.0, self.state.step / (config.num_epoch * config.num_iter))

    def _prepared(self, total: int | None) -> Iterator[list[Group]]:
        """This process's groups of each step to come, drawn ahead of time."""
        steps = count(self.state.step) if total is None else range(self.state.step, total)
        if self._share_done() >= 1:
            return
        with ThreadPoolExecutor(max(1, self._config.num_workers)) as pool:
            waiting: list[Future[list[Group]]] = []
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

    def _draw(self, step: int) -> list[Group]:
        mine = range(self._processes.rank, self._groups, self._processes.count)
        drawn = {number: self._sampler.draw(step, number) for number in mine}
        strength, seed = self._config.augmentation, self._config.seed
        return [
            augment(group, strength, np.random.default_rng([seed, step, number, 1]))
            for number, group in drawn.items()
            if group is not None
        ]

    def _step(self, groups: list[Group], rate: float) -> float:
        """One step of the optimizer; the loss, the mean over all groups of all processes."""
        config = self._config
        self._network.zero_grad()
        total = torch.zeros((), device=self._device)
        offset = self.state.step % config.target_stride
        for group in groups:
            precision = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
            loss = group_loss(self._network, group, config.matching_scale, config.target_stride, offset, precision)
            (config.rr_weight * loss / self._groups).backward()
            total += loss.detach() / self._groups
        gradients = [_gradient(parameter) for parameter in self._network.parameters()]
        self._processes.sum([*gradients, total])
        for parameter, gradient in zip(self._network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), _MAX_GRADIENT)
        if not torch.isfinite(norm + total):
            raise self._not_a_number(groups, float(total))
        for name, optimizer in self._optimizers.items():
            for settings in optimizer.param_groups:
                settings["lr"] = rate * (_KERNEL_RATE if name == "muon" else 1)
            optimizer.step()
        return float(total)

    def _not_a_number(self, groups: list[Group], loss: float) -> LumenError:
        """Keep the batch and the weights before it, and say so."""
        path = self._folder.bad_batch(self._processes.rank)
        arrays: dict[str, np.ndarray] = {}
        for number, group in enumerate(groups):
            arrays |= {f"images_{number}": group.images, f"masks_{number}": group.masks}
            for (source, target), points in group.pairs.items():
                arrays[f"points_{number}_{source}_{target}"] = np.stack([points.source, points.target])
        self._folder.save_arrays(path, arrays)
        if self._processes.is_first:
            self.save()
        return LumenError(
            f"the loss is {loss} or its gradient is not finite at step {self.state.step}; the batch is in {path}. Go "
            f"on from the weights before it in another --log_root, with --load_trained_model --trained_model_path "
            f"{self._folder.last} and a lower --lr_range, or --precision float32"
        )

    def _validate(self, log: TrainingLog) -> None:
        self._estimate_statistics()
        found = validate(self._network, self._validation, self._config.cross_check_distance)
        state = self.state
        state.history.append({"step": state.step, "elapsed_s": state.elapsed_s, **asdict(found)})
        log.validation(state.history, found, self._network, self._validation[0])
        if self._processes.is_first:
            minutes = state.elapsed_s / 60
            logger.info("step %d, %.1f minutes: %s", state.step, minutes, found)
            is_best = found.pck[0] > state.best
            state.best = max(state.best, found.pck[0])
            if is_best:
                self._write(self._folder.best, found, estimate=False)
            # After the best, which it says was written.
            self._write(self._folder.last, found, estimate=False)
        self._processes.wait()

    def _estimate_statistics(self) -> None:
        frames = self._training
        estimate_statistics(self._network, frames.clips, frames.rows, self._config.seed)

    def _write(self, path: Any, found: Validation | None = None, *, estimate: bool = True) -> None:
        if not self._processes.is_first:
            return
        if estimate:
            self._estimate_statistics()
        state = self.state
        Checkpoint(
            model=self._network.state_dict(),
            epoch=state.step // self._config.num_iter,
            step=state.step,
            validation=found.median_px if found else float("nan"),
            method=METHOD,
            config=to_mapping(self._config),
            optimizer={name: each.state_dict() for name, each in self._optimizers.items()},
            training={"state": asdict(state)},
        ).save(path)

    def _must_stop(self) -> bool:
        """Whether to stop here: what one process knows, all do."""
        # In double precision, in which a run that goes on computes its share.
        state = [float(self._stop_requested), self._share_done()]
        wanted = torch.tensor(state, dtype=torch.float64, device=self._device)
        self._processes.sum([wanted])
        self._stop_requested = bool(wanted[0] > 0)
        # The mean over processes, lest each train with a rate of its own.
        self._share = float(wanted[1]) / self._processes.count
        return self._stop_requested or self._share >= 1

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            if self._stop_requested:
                raise KeyboardInterrupt
            self._stop_requested = True
            logger.info("stopping after this step; once more stops at once")

        before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _sampler(config: TrainConfig, frames: Frames, group_frames: int, seed: int) -> GroupSampler:
    return GroupSampler(frames.clips, frames.rows, config.adjacent_range, group_frames, config.sampling_size, seed)


def _validation_groups(config: TrainConfig, frames: Frames) -> list[Group]:
    # Another seed than that of training, or its first groups would be validated on.
    sampler = _sampler(config, frames, _VALIDATION_FRAMES, config.seed + 1)
    groups = [sampler.draw(0, number) for number in range(_VALIDATION_GROUPS)]
    found = [group for group in groups if group is not None]
    _require_pairs(found[0] if found else None, config)
    return found


def _require_pairs(group: Group | None, config: TrainConfig) -> None:
    if group is None:
        low, high = config.adjacent_range
        raise LumenError(
            f"no two frames {low} to {high} apart see a point in common inside the mask: widen --adjacent_range, "
            "or bootstrap again with more points"
        )


def _make_optimizers(config: TrainConfig, network: FCDenseNet) -> dict[str, torch.optim.Optimizer]:
    rate, every = config.lr_range[0], list(network.parameters())
    if config.optimizer == "sgd":
        return {"sgd": torch.optim.SGD(every, lr=rate, momentum=0.9)}
    kernels = network.hidden_kernels() if config.optimizer == "muon" else []
    others = [parameter for parameter in every if all(parameter is not kernel for kernel in kernels)]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)
    }
    if kernels:
        optimizers["muon"] = Muon(kernels, lr=rate)
    return optimizers


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
