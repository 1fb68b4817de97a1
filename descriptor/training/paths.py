"""File names of a training run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.outputs.files import atomic_write


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved settings, in the format of --config."""
        return self.root / "train.yaml"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.root / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation."""
        return self.root / "best.pt"

    @property
    def history(self) -> Path:
        """Results of each validation."""
        return self.root / "history.json"

    @property
    def plot(self) -> Path:
        """Plot of PCK and loss against time."""
        return self.root / "training.png"

    @property
    def events(self) -> Path:
        """TensorBoard's folder."""
        return self.root / "tensorboard"

    @property
    def report(self) -> Path:
        return self.root / "reports" / "train.json"

    def files(self) -> list[Path]:
        """The existing files of the run."""
        named = (self.config, self.last, self.best, self.history, self.plot, self.report)
        there = [path for path in named if path.exists()]
        return there + sorted(self.events.glob("events.out.tfevents.*")) + sorted(self.root.glob("bad_batch_*.npz"))

    def bad_batch(self, rank: int) -> Path:
        """The batch for which the loss was not finite."""
        return self.root / f"bad_batch_{rank}.npz"

    @staticmethod
    def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
        """Write an NPZ file atomically."""
        with atomic_write(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
