"""One process at a time: a folder held until the block ends, or the process does.

The lock is on a hidden file beside the folder, which is there while the folder is held. NFS locks only files that are
open for writing, and keeps locks of folders from other machines.
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
    """Hold a folder that exists, under whatever name.

    On a file system without locks, a warning says that nothing keeps a second process away.

    Args:
        path: of the folder.
        busy: what to say if another process holds it; None waits for that one.

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
    """The lock file and its descriptor: beside the folder, or in it where its parent may not be written to."""
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
            # Whoever held it before may have removed it meanwhile, and then another process can hold a new one.
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
        # It may be there, made by another user.
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
    """Remove the lock file while it is still held, so that it is never that of another process."""
    with suppress(OSError):
        # One that is not empty is no lock of ours.
        if os.fstat(descriptor).st_size == 0 and _is_at(descriptor, lock):
            lock.unlink()
    os.close(descriptor)
