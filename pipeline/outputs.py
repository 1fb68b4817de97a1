"""The folder a command writes: claimed, made beside its place by one process alone, and moved there as a whole."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors
from pipeline.files import partial_path, publish_directory, recover_directory, remove_directory
from pipeline.locks import held


@dataclass(frozen=True)
class WorkFolder:
    """A hidden folder beside the output, held by this process.

    Attributes:
        path: where to write; it keeps what a killed run of the same command left.
        output: where `publish` puts it.
    """

    path: Path
    output: Path
    _claim: Callable[[], None]

    def clear(self) -> None:
        """Remove what is in it."""
        with explain_os_errors("write", self.path):
            for child in self.path.iterdir():
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()

    def discard(self) -> None:
        """Remove it, because there is nothing in it worth going on from."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_output(self) -> None:
        """Remove what is to be replaced, before something outside of it changes to which it would no longer fit.

        Raises:
            LumenError: if it may not be replaced, or cannot be removed.
        """
        self._claim()
        remove_directory(self.output)

    def publish(self, elsewhere: Path | None = None) -> None:
        """Move it to its place, or elsewhere, whole, replacing what may be replaced.

        Raises:
            LumenError: if something that may not be replaced has come there meanwhile, or it cannot be moved.
        """
        if elsewhere is None:
            self._claim()
        publish_directory(self.path, elsewhere or self.output)


@contextmanager
def work_folder(output: Path, *, is_ours: Callable[[Path], bool], overwrite: bool) -> Iterator[WorkFolder]:
    """Claim `output` and hold the hidden folder in which it is made.

    Args:
        output: the folder to be; what a killed `publish` left of it is put right first.
        is_ours: whether an existing folder holds what this command makes; nothing else is ever replaced.
        overwrite: the user allows replacing it.

    Raises:
        LumenError: if the output exists and was not to be replaced, or holds something else, or cannot be written, or
            another process is making it.
    """
    output = output if output.name not in ("", "..") else output.resolve()

    def claim() -> None:
        _claim_output(output, is_ours, overwrite)

    path = partial_path(output)
    with explain_os_errors("write", output):
        path.mkdir(parents=True, exist_ok=True)
    with held(path, busy=f"another process is making {output}: wait for it"):
        try:
            claim()
            yield WorkFolder(path, output, claim)
        finally:
            with suppress(OSError):
                path.rmdir()


def _claim_output(output: Path, is_ours: Callable[[Path], bool], overwrite: bool) -> None:
    recover_directory(output)
    with explain_os_errors("write", output):
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return
    if not output.is_dir() or not is_ours(output):
        raise LumenError(
            f"{output} exists already and holds what this command did not make, so it is not replaced: move it "
            "away or choose another place"
        )
    if not overwrite:
        raise LumenError(f"{output} exists already: pass --overwrite to replace it, or move it away")
