"""One process at a time: a file or folder held until the block ends, or the process does."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors


@contextmanager
def held(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a path that exists.

    Args:
        path: of a file or folder.
        busy: what to say if another process holds it; None waits for that one.

    Raises:
        LumenError: if another process holds it, or it cannot be opened.
    """
    with explain_os_errors("open", path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            with explain_os_errors("lock", path):
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
        except LumenError as error:
            if busy is not None and isinstance(error.__cause__, BlockingIOError):
                raise LumenError(busy) from error
            raise
        yield
    finally:
        os.close(descriptor)
