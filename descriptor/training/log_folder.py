"""The folder that train.py and test.py write into."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from descriptor.checkpoint import Checkpoint
from descriptor.training.paths import RunFolder
from pipeline.errors import LumenError
from pipeline.outputs.folders import output_folder

# Dense Descriptor Learning's command lines give both the same folder.
_COMMANDS = "train.py or test.py"
_TEST_FILES = ("pck.txt", "pck.json", "pck.png", "errors.png", "matches.png", "test.yaml", "reports/test.json")


@contextmanager
def log_folder(root: Path, inputs: Iterable[Path | None]) -> Iterator[None]:
    """Claim `--log_root`, and hold it.

    Args:
        root: the folder.
        inputs: what is read; the folder may not overlap with it.

    Raises:
        LumenError: if the folder holds something else or overlaps with an input, or another process holds it.
    """
    with output_folder(root, _COMMANDS, inputs=inputs, flag="--log_root", adopted=lambda: _older_run(RunFolder(root))):
        yield


def _older_run(folder: RunFolder) -> list[Path]:
    """The files of a training by a version that kept no record, so that it can be resumed."""
    try:
        is_ours = folder.last.is_file() and Checkpoint.load(folder.last).config is not None
    except LumenError:
        return []
    return [*folder.files(), *(folder.root / name for name in _TEST_FILES)] if is_ours else []
