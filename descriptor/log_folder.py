"""The folder that train.py and test.py write into."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from descriptor.checkpoint import Checkpoint
from descriptor.training_paths import RunFolder
from pipeline.errors import LumenError
from pipeline.output_record import OutputRecord
from pipeline.outputs import output_folder

# Dense Descriptor Learning's command lines give both the same folder.
_COMMANDS = "train.py or test.py"


@contextmanager
def log_folder(root: Path, inputs: Iterable[Path | None]) -> Iterator[None]:
    """Claim `--log_root`, and hold it.

    Args:
        root: the folder.
        inputs: what is read; the folder may not overlap with it.

    Raises:
        LumenError: if the folder holds something else or overlaps with an input, or another process holds it.
    """
    _adopt_older_run(RunFolder(root))
    with output_folder(root, _COMMANDS, inputs=inputs, flag="--log_root"):
        yield


def _adopt_older_run(folder: RunFolder) -> None:
    """Start the record of a training by a version that kept none, so that it can be resumed."""
    if not folder.last.is_file() or OutputRecord.load(folder.root) is not None:
        return
    try:
        is_ours = Checkpoint.load(folder.last).config is not None
    except LumenError:
        return
    if is_ours:
        OutputRecord.create(folder.root, _COMMANDS).adopt(folder.files())
