"""What all benchmarks print: the machine, wall and CPU seconds, and how the frames and weights of a row were chosen."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Cost:
    """Wall seconds, and CPU seconds of this process and of its children that ended. NaN until measured."""

    wall_s: float = float("nan")
    cpu_s: float = float("nan")

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s wall, {self.cpu_s:.2f} s CPU"


@contextmanager
def timed() -> Iterator[Cost]:
    """Measure the cost of the block."""
    cost = Cost()
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    yield cost
    cost.wall_s, cost.cpu_s = time.perf_counter() - wall_s, _cpu_s() - cpu_s


def median_cost(costs: list[Cost]) -> Cost:
    """The median of wall seconds and that of CPU seconds."""
    wall_s, cpu_s = sorted(cost.wall_s for cost in costs), sorted(cost.cpu_s for cost in costs)
    return Cost(wall_s[len(wall_s) // 2], cpu_s[len(cpu_s) // 2])


def print_machine(*sizes: str) -> None:
    """Print the machine, its load and the sizes of this run.

    Args:
        sizes: such as "640x512" or "PyTorch 2.13.0".
    """
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(", ".join([platform.machine(), load, f"Python {platform.python_version()}", *sizes]), flush=True)


def run_command(script: str, *arguments: object, is_quiet: bool = False) -> None:
    """Run a command of the repository.

    Args:
        script: its path in the repository.
        arguments: its flags; relative paths are those of this process.
        is_quiet: whether its output is dropped.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    output = subprocess.DEVNULL if is_quiet else None
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=output, stderr=output)


def keep_all_note(flagged_frames: int) -> str:
    """The note of a row whose frames were extracted with `--keep_all`, by the number of frames with quality flags."""
    return f"--keep_all ({flagged_frames} flagged frames)" if flagged_frames else ""


def weights_note(weights: Path, frames: int, weights_frames: int | None = None) -> str:
    """The note of a row of `frames` frames that uses weights trained before.

    Args:
        weights: the checkpoint.
        frames: of the row.
        weights_frames: how many frames the weights were trained on; by default those of the reconstruction that the
            checkpoint lies in, if it lies in one.
    """
    # A reconstruction trains in RUN/training; RUN itself is the sequence of its frames.
    sequence = weights.resolve().parent.parent / "sequence.yaml"
    if weights_frames is None and weights.resolve().parent.name == "training" and sequence.exists():
        weights_frames = len(yaml.safe_load(sequence.read_text())["frames"])
    if weights_frames is None:
        return "weights trained on an unknown number of frames"
    return f"weights trained on {weights_frames} frames" + (f", more than {frames}" if weights_frames > frames else "")


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
