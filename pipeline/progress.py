"""Progress of a long loop: a bar on a terminal, plain log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 30.0

logger = logging.getLogger(__name__)


def progress(
    items: Iterable[Item], description: str, *, total: int | None = None, unit: str = "frame", done: int = 0
) -> Iterator[Item]:
    """Yield `items`, and show how many are done, the rate and the remaining time.

    Args:
        items: the items of the loop.
        description: the activity, for example "writing frames".
        total: the number of items including `done`, if it is known and `items` has no length.
        unit: the name of one item.
        done: the number of items that were done before, in addition to `items`.
    """
    if total is None:
        total = done + len(items) if isinstance(items, Sized) else None
    with ProgressBar(description, total=total, unit=unit, done=done) as bar:
        for item in items:
            yield item
            bar.update()


class ProgressBar:
    """Progress of work outside a loop: the code that does the work calls `update`. A context manager.

    Inside another progress bar it shows nothing.
    """

    _open = 0

    def __init__(self, description: str, *, total: int | None = None, unit: str = "frame", done: int = 0) -> None:
        """Describe the work. `done` of `total` were done before and do not count for the rate."""
        self._description, self._total, self._unit = description, total, unit
        self._before, self._done = done, 0
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        self._quiet = ProgressBar._open > 0
        ProgressBar._open += 1
        self._started = self._last = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._description,
                total=self._total,
                initial=self._before,
                unit=f" {self._unit}",
                file=sys.stderr,
                dynamic_ncols=True,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        ProgressBar._open -= 1
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """Count `count` more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if self._quiet or now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = self._done / (now - self._started)
        done = self._before + self._done
        left = f" of {self._total}, {(self._total - done) / rate:.0f} s left" if self._total else ""
        logger.info("%s: %d%s, %.1f %s/s", self._description, done, left, rate, self._unit)
