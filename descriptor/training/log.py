"""Log of a training run: TensorBoard entries, history of validations, and its plot."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from matplotlib import pyplot
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from descriptor.training.paths import RunFolder
from pipeline.arrays import Bytes
from pipeline.errors import explain_os_errors
from pipeline.outputs.files import atomic_write, write_json
from pipeline.outputs.owned_files import own


class TrainingLog:
    """Log of one run. A context manager.

    Args:
        folder: folder of the run.
        display_interval: steps between entries in TensorBoard.
        epoch_steps: steps per epoch.
        batch_size: pairs per step.
        step: step to resume from; TensorBoard drops entries of an interrupted run after it.
        active: whether this process writes the log.
    """

    def __init__(
        self, folder: RunFolder, display_interval: int, epoch_steps: int, batch_size: int, step: int, active: bool
    ) -> None:
        self._folder, self._interval, self._epoch_steps = folder, display_interval, epoch_steps
        self._batch_size, self._step = batch_size, step
        self._writer = EventFile(folder.events, step) if active else None
        self._losses: list[float] = []
        self._since: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, loss: float, rate: float, elapsed_s: float) -> None:
        """Log a step; TensorBoard receives the mean over each `display_interval`."""
        self._losses.append(loss)
        if self._since is None:
            # The duration of the first step is unknown.
            self._since, self._step = elapsed_s, step
        if self._writer is None or step % self._interval:
            return
        self._writer.add_scalar("loss", float(np.mean(self._losses[-self._interval :])), step)
        self._writer.add_scalar("learning_rate", rate, step)
        if step > self._step:
            pairs = self._batch_size * (step - self._step)
            self._writer.add_scalar("pairs_per_s", pairs / max(elapsed_s - self._since, 1e-9), step)
        self._since, self._step = elapsed_s, step

    def validation(
        self,
        history: list[dict[str, Any]],
        thresholds_px: Sequence[int],
        plots: Callable[[], dict[str, Bytes]],
    ) -> None:
        """Log the last validation of a history, with images."""
        if self._writer is None:
            return
        found = history[-1]
        step = found["step"]
        if self._losses:
            found["loss"] = float(np.mean(self._losses[-self._epoch_steps :]))
        for threshold, share in zip(thresholds_px, found["pck"], strict=True):
            self._writer.add_scalar(f"validation/pck_{threshold}px", share, step)
        self._writer.add_scalar("validation/median_error_px", found["median_px"], step)
        self._writer.add_scalar("validation/consistent", found["consistent"], step)
        for name, image in plots().items():
            self._writer.add_image(name, image, step)
        self._writer.flush()
        write_json(self._folder.history, history)
        plot_history(self._folder, history, thresholds_px)


def plot_history(folder: RunFolder, history: list[dict[str, Any]], thresholds_px: Sequence[int]) -> None:
    """Plot PCK and loss against the training time in minutes."""
    minutes = [entry["elapsed_s"] / 60 for entry in history]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number, threshold in enumerate(thresholds_px):
        axes.plot(minutes, [entry["pck"][number] for entry in history], "o-", ms=3, label=f"within {threshold} px")
    axes.set(xlabel="training time, minutes", ylabel="share of points (validation)", ylim=(0, 1))
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(minutes, [entry.get("loss", np.nan) for entry in history], color="grey", ls="--", label="loss")
    right.set(ylabel="training loss")
    axes.legend(loc="center right")
    with atomic_write(folder.plot) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


class EventFile:
    """A new TensorBoard event file.

    Its name omits the host name, which TensorBoard's own writer includes.

    Args:
        folder: folder of the event files.
        step: TensorBoard drops entries of older files after this step.

    Raises:
        LumenError: if it cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / f"events.out.tfevents.{time.time():.6f}"
        with explain_os_errors("write", self._path):
            folder.mkdir(parents=True, exist_ok=True)
            own(self._path)
            self._records = RecordWriter(self._path.open("wb"))
        self._write(Event(file_version="brain.Event:2", step=step))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=step))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write a scalar."""
        self._write(Event(summary=summary.scalar(name, value), step=step))

    def add_image(self, name: str, image: Bytes, step: int) -> None:
        """Write an image (H, W, 3) RGB."""
        self._write(Event(summary=summary.image(name, image, dataformats="HWC"), step=step))

    def flush(self) -> None:
        """Write buffered entries to disk."""
        with explain_os_errors("write", self._path):
            self._records.flush()

    def close(self) -> None:
        """Close the file."""
        with explain_os_errors("write", self._path):
            self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with explain_os_errors("write", self._path):
            self._records.write(event.SerializeToString())
