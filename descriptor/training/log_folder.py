"""The output folder of train.py and test.py."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from descriptor.checkpoint import Checkpoint
from descriptor.training.paths import RunFolder
from pipeline.errors import LumenError
from pipeline.outputs.folders import output_folder

# Command lines of Dense Descriptor Learning use one folder for both.
_COMMANDS = "train.py or test.py"
_TEST_FILES = ("pck.txt", "pck.json", "pck.png", "errors.png", "matches.png", "test.yaml", "reports/test.json")


@contextmanager
def log_folder(root: Path, inputs: Iterable[Path | None]) -> Iterator[None]:
    """Lock `--log_root` for writing.

    Args:
        root: the folder.
        inputs: input paths, which the folder must not overlap.

    Raises:
        LumenError: if the folder contains other files, overlaps with an input, or is locked by another process.
    """
    with output_folder(root, _COMMANDS, inputs=inputs, flag="--log_root", adopted=lambda: _older_run(RunFolder(root))):
        yield


def _older_run(folder: RunFolder) -> list[Path]:
    """The files of a training by a version that did not record its outputs, so that it can be resumed."""
    try:
        is_ours = folder.last.is_file() and Checkpoint.load(folder.last).config is not None
    except LumenError:
        return []
    return [*folder.files(), *(folder.root / name for name in _TEST_FILES)] if is_ours else []
