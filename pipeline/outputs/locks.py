"""Lock a folder for one process, until the block or the process ends.

The lock is on a hidden file beside the folder, which exists while the folder is held. NFS locks only files that are
open for writing, and does not share locks on folders between machines.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors

LOCK_PREFIX = ".lock."
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

logger = logging.getLogger(__name__)


@contextmanager
def held(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold an existing folder. Several paths to one folder, such as links, share one lock.

    On a file system without locks, the folder is not locked, and a warning says so.

    Args:
        path: the folder.
        busy: the error message if another process holds the folder; None waits for that process.

    Raises:
        LumenError: if another process holds it, or it cannot be locked.
    """
    with explain_os_errors("open", path):
        folder = path.resolve(strict=True)
    try:
        with explain_os_errors("lock", path):
            lock, descriptor = _acquire(folder, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
    except LumenError as error:
        if busy is not None and isinstance(error.__cause__, BlockingIOError):
            raise LumenError(busy) from error
        raise
    try:
        yield
    finally:
        _release(lock, descriptor)


def _acquire(folder: Path, operation: int) -> tuple[Path, int]:
    """The lock file and its descriptor. The file is beside the folder, or in it if the parent is not writable."""
    lock = folder.with_name(f"{LOCK_PREFIX}{folder.name}")
    while True:
        try:
            descriptor = _open(lock)
        except OSError as error:
            inside = folder / lock.name
            if lock == inside or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            lock = inside
            continue
        try:
            _flock(descriptor, operation, folder)
            # The previous holder may have removed the file in the meantime, and another process may hold a new one.
            if _is_at(descriptor, lock):
                return lock, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        # Another user may have created it.
        with suppress(FileNotFoundError):
            return os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
        raise


def _flock(descriptor: int, operation: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("the file system of %s has no locks: run only one command at a time on this folder", folder)


def _is_at(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False


def _release(lock: Path, descriptor: int) -> None:
    """Remove the lock file while it is still locked, so that no other process can hold it."""
    with suppress(OSError):
        # A file that is not empty is not a lock file.
        if os.fstat(descriptor).st_size == 0 and _is_at(descriptor, lock):
            lock.unlink()
    os.close(descriptor)
