"""The report of a stage, `reports/<stage>.json`: counts, times and peak memory."""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.outputs.files import write_json


class StageReport:
    """Collects a stage's numbers while it runs.

    Attributes:
        counts: numbers of things read, written, rejected, ...; builtin types only.
        times_s: wall-clock time of each named part, s.
        warnings: one line each, shown first in the report.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.counts: dict[str, Any] = {}
        self.times_s: dict[str, float] = {}
        self.warnings: list[str] = []
        self._started = time.monotonic()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the wall-clock time of the block to `times_s[part]`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.times_s[part] = self.times_s.get(part, 0.0) + time.monotonic() - started

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        write_json(
            path,
            {
                "stage": self.stage,
                "version": __version__,
                "counts": self.counts,
                "times_s": {part: round(seconds, 3) for part, seconds in self.times_s.items()},
                "total_s": round(time.monotonic() - self._started, 3),
                "peak_memory_mb": round(peak_memory_mb(), 1),
                "warnings": self.warnings,
            },
        )


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage also counts the memory of the parent when it started this process.
        peak_kb = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if peak_kb:
            return int(peak_kb[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
