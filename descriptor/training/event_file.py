"""TensorBoard's event files, under names that do not hold the name of the machine as those of its own writer do."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from pipeline.errors import explain_os_errors
from pipeline.outputs.record import own


class EventFile:
    """A new event file.

    Args:
        folder: of the run's event files.
        step: entries of later steps in the older files are dropped by TensorBoard.

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
        """Write a number."""
        self._write(Event(summary=summary.scalar(name, value), step=step))

    def add_picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Write a picture (H, W, 3) RGB."""
        self._write(Event(summary=summary.image(name, picture, dataformats="HWC"), step=step))

    def flush(self) -> None:
        """Put what was written on the disk."""
        with explain_os_errors("write", self._path):
            self._records.flush()

    def close(self) -> None:
        """End the file."""
        with explain_os_errors("write", self._path):
            self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with explain_os_errors("write", self._path):
            self._records.write(event.SerializeToString())
