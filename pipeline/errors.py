"""The one exception type that a user can act on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LumenError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    Commands print it as one line and exit with status 1; every other exception is a bug and shows its
    traceback (`pipeline.command`).
    """


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space and run the same command again",
    errno.EACCES: "permission denied: choose a place you may write to",
    errno.EPERM: "not permitted: choose a place you may write to",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOENT: "no such file or folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def explain_os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an operating-system error inside the block into a `LumenError`: "cannot <action> <path>: <why>".

    Raises:
        LumenError: for any OSError raised inside the block.
    """
    try:
        yield
    except OSError as error:
        why = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise LumenError(f"cannot {action} {path}: {why}") from error
