"""Whether a command may write where it was told to."""

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors
from pipeline.files import recover_directory


def claim_output(output: Path, *, is_ours: Callable[[Path], bool], overwrite: bool) -> None:
    """Check that `output` may be made, or replaced; call it before any work.

    Args:
        output: the folder to be; what a killed `publish_directory` left of it is put right first.
        is_ours: whether an existing folder holds what this command makes; nothing else is ever replaced.
        overwrite: the user allows replacing it.

    Raises:
        LumenError: if it exists and was not to be replaced, or holds something else.
    """
    recover_directory(output)
    with explain_os_errors("write", output):
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return
    if not overwrite:
        raise LumenError(f"{output} exists already: pass --overwrite to replace it, or choose another output")
    if not output.is_dir() or not is_ours(output):
        raise LumenError(
            f"{output} holds something that this command did not make, so it is not replaced: choose another output"
        )
