"""Exceptions that report an error to the user."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class LumenError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do.

    Commands print it as one line and exit with status 1. Every other exception is a bug, and its traceback is printed
    (`pipeline.command.run_command`).
    """


class PartialSuccess(LumenError):
    """Some outputs were written and others could not be. The message says what is missing and why.

    Commands print the outputs on standard output and the message as one line, and exit with status 3.

    Attributes:
        outputs: the paths that were written.
    """

    def __init__(self, message: str, outputs: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.outputs = list(outputs)


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work at a point where the same command continues. The message says where."""


class NoReconstruction(LumenError):
    """The frames were read, but no model was reconstructed. Intermediate results may show why."""


def require(condition: bool, message: str) -> None:
    """Check an input of the user.

    Raises:
        LumenError: with `message` if `condition` is false.
    """
    if not condition:
        raise LumenError(message)


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
    errno.EEXIST: "a file of this name is in the way",
    errno.EFBIG: "the file would be larger than the file system or your limit allows",
}


@contextmanager
def explain_os_errors(action: str, path: Path) -> Iterator[None]:
    """Convert an operating-system error inside the block to a `LumenError`: "cannot <action> <path>: <why>".

    If the error concerns a path other than `path` and its temporary name, the message names that path too.

    Raises:
        LumenError: for any OSError raised inside the block.
    """
    try:
        yield
    except OSError as error:
        why = _ADVICE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
        raise LumenError(f"cannot {action} {path}: {why}{_elsewhere(error, path)}") from error


def _elsewhere(error: OSError, path: Path) -> str:
    if not isinstance(error.filename, str | bytes):
        return ""
    at_fault = Path(os.fsdecode(error.filename))
    is_the_same = at_fault.parent == path.parent and at_fault.name.endswith(path.name)
    return "" if is_the_same else f" ({at_fault})"
