"""Progress of a long loop: a bar on a terminal, plain log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 30.0

logger = logging.getLogger(__name__)


def progress(
    items: Iterable[Item], description: str, *, total: int | None = None, unit: str = "frame"
) -> Iterator[Item]:
    """Yield `items`, showing how many are done, the rate and the time left.

    Args:
        items: what the loop goes over.
        description: the activity, for example "writing frames".
        total: how many there are, if that is known and `items` has no length.
        unit: what one item is called.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty():
        return iter(tqdm(items, desc=description, total=total, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True))
    return _log_lines(items, description, total, unit)


def _log_lines(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            rate = done / (now - started)
            left = f" of {total}, {(total - done) / rate:.0f} s left" if total else ""
            logger.info("%s: %d%s, %.1f %s/s", description, done, left, rate, unit)
