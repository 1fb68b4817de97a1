"""Output folders of commands: which existing folders are accepted, and which of their files are replaced or removed.

An output folder is new, empty, or has LumenSfM's record of its files (`pipeline.outputs.owned_files`); others are
rejected. A command either writes to a hidden work folder and moves that into place as a whole (`work_folder`), or
writes in place file by file (`output_folder`). Files of the user in an output folder are never changed.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import partial_path
from pipeline.outputs.locks import held
from pipeline.outputs.owned_files import (
    RECORD_NAME,
    OutputRecord,
    files_under,
    foreign_in,
    held_record,
    is_empty,
    is_held,
    own,
    recording,
    unlisted_in,
)

_ASIDE = ".replaced."


@dataclass(frozen=True)
class WorkFolder:
    """A hidden folder beside the output folder, held by this process.

    Attributes:
        path: where to write; it keeps the files of a killed run of the same command.
        output: where `publish` moves the folder.
        record: the record of the files in it.
    """

    path: Path
    output: Path
    record: OutputRecord
    _claim: Callable[[], None]

    def clear(self) -> None:
        """Remove its content."""
        self.record.clear()

    def discard(self) -> None:
        """Remove the folder when there is nothing to resume from. Published files stay."""
        if self.record.root == self.path:
            self.record.discard()

    def remove_output(self) -> None:
        """Remove the old output before its inputs change.

        Raises:
            LumenError: if the old output must not be replaced, or cannot be removed.
        """
        self._claim()
        record = OutputRecord.load(self.output) if self.output.exists() else None
        if record is not None:
            record.clear()

    def publish(self, elsewhere: Path | None = None) -> None:
        """Move the whole folder to `output`, or elsewhere. The old output is removed; files of the user stay.

        Raises:
            LumenError: if something appeared there in the meantime that must not be replaced, a file of the user has
                the name of a new file, or the folder cannot be moved.
        """
        place = self.output
        if elsewhere is None:
            self._claim()
        else:
            place = _real_place(elsewhere)
            _claim_output(place, self.record.kind, overwrite=True)
        self.record.tidy()
        _publish(self.record, place)


@contextmanager
def work_folder(
    output: Path, kind: str, *, inputs: Iterable[Path | None] = (), overwrite: bool = False
) -> Iterator[WorkFolder]:
    """Claim `output` and hold the hidden work folder for it.

    Args:
        output: the output folder; a `publish` that was killed there is completed or undone first.
        kind: the command that writes such outputs; outputs of other commands are never replaced.
        inputs: the paths that the command reads; the output must not overlap with them.
        overwrite: whether an output of this kind may be replaced.

    Raises:
        LumenError: if the output exists and must not be replaced, has other content, overlaps with an input, or cannot
            be written, or another process is writing it.
    """
    output = _real_place(output)
    if held_record(output) is None:
        check_no_overlap(output, inputs)
    _refuse_busy(output)

    def claim() -> None:
        _claim_output(output, kind, overwrite)

    # A folder cannot be moved across file systems, so the work folder of a mount point is inside it.
    path = output / partial_path(output).name if os.path.ismount(output) else partial_path(output)
    with explain_os_errors("write", output):
        path.mkdir(parents=True, exist_ok=True)
    with held(path, busy=f"another process is writing {output}: wait for it to end"):
        record = None
        try:
            record = _claim_work(path, kind)
            with recording(record):
                claim()
                yield WorkFolder(path, output, record, claim)
        finally:
            if record is not None and record.root == path and record.path.exists() and record.is_blank:
                record.discard()
            with suppress(OSError):
                path.rmdir()


@contextmanager
def output_folder(
    output: Path,
    kind: str,
    *,
    inputs: Iterable[Path | None] = (),
    flag: str = "--output",
    adopted: Callable[[], Iterable[Path]] = tuple,
) -> Iterator[OutputRecord]:
    """Claim a folder that a command writes in place, and hold it.

    Args:
        output: the folder; it is created if it does not exist.
        kind: the command, or commands, that share such outputs.
        inputs: the paths that the command reads; the output must not overlap with them.
        flag: the flag that sets the output, for errors.
        adopted: returns the files that LumenSfM wrote into a folder without a record.

    Raises:
        LumenError: if the folder has other content, overlaps with an input or cannot be written, or another process
            holds it.
    """
    output = _real_place(output)
    if held_record(output) is None:
        check_no_overlap(output, inputs, flag)
    _refuse_busy(output)
    is_new = not output.exists()
    with explain_os_errors("write", output):
        output.mkdir(parents=True, exist_ok=True)
    with held(output, busy=f"another process is writing to {output}: wait for it to end, or choose another {flag}"):
        record = None
        try:
            record = _claimed_record(output, kind, flag, list(adopted()))
            with recording(record):
                yield record
        finally:
            if record is not None:
                _close(record)
            if is_new:
                with suppress(OSError):
                    output.rmdir()


@contextmanager
def joined_output(folder: Path) -> Iterator[None]:
    """List files that are written inside the block in the record of the output that a folder belongs to, if any.

    Args:
        folder: for example a sequence in the output of an extraction.
    """
    real = Path(os.path.realpath(folder))
    for place in (real, real.parent):
        if is_held(place):
            break
        record = OutputRecord.load(place)
        if record is not None and record.lists_any(real):
            record.is_shared = True
            with recording(record):
                yield
            return
    yield


def _refuse_busy(output: Path) -> None:
    """Check that no other process is writing to an output folder that contains this one.

    Raises:
        LumenError: if one is.
    """
    for parent in Path(os.path.abspath(output)).parents:
        if (parent / RECORD_NAME).is_file() and not is_held(parent):
            with held(parent, busy=f"another process is writing to {parent}: wait for it to end"):
                pass


def check_no_overlap(output: Path, inputs: Iterable[Path | None], flag: str = "--output") -> None:
    """Check that an output folder does not overlap with the inputs.

    Raises:
        LumenError: if the output is an input, contains one, or lies inside one.
    """
    for given in inputs:
        if given is None or not given.exists():
            continue
        how = None
        if _is_same(output, given):
            how = "is the input"
        elif any(_is_same(output, parent) for parent in given.resolve().parents):
            how = "contains the input"
        elif any(_is_same(given, parent) for parent in output.resolve().parents):
            how = "lies inside the input"
        if how is not None:
            raise LumenError(f"{flag} {output} {how} {given}: choose another folder")


def _is_same(first: Path, second: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(first, second)
    return False


def _real_place(output: Path) -> Path:
    """The path with a link at its end resolved: an output is written through a link."""
    is_named = output.name not in ("", "..")
    with explain_os_errors("write", output):
        return output if is_named and not output.is_symlink() else output.resolve()


def _close(record: OutputRecord) -> None:
    """Sort the record, or remove it if nothing was written."""
    # The block may have ended because the disk is full; that error must reach the user, not this one.
    with suppress(LumenError):
        record.tidy()
    if record.is_blank:
        record.path.unlink(missing_ok=True)


def _claim_work(path: Path, kind: str) -> OutputRecord:
    """The record of the work folder, left by a killed run or new."""
    record = OutputRecord.load(path)
    if record is None or record.kind != kind:
        found = next(iter(foreign_in(path)), None)
        if found is not None or record is not None:
            raise LumenError(f"{path} is in the way and was not written by {kind}: move it away")
        own(path / RECORD_NAME)
        record = OutputRecord.create(path, kind)
    return record


def _claimed_record(output: Path, kind: str, flag: str, adopted: Sequence[Path]) -> OutputRecord:
    record = _record_of(output, kind, flag, adopted)
    if record is None:
        own(output / RECORD_NAME)
        record = OutputRecord.create(output, kind)
        record.adopt(adopted)
    return record


def _record_of(output: Path, kind: str, flag: str, adopted: Sequence[Path] = ()) -> OutputRecord | None:
    """The record of an output of this kind; None if the folder is empty.

    Raises:
        LumenError: if it is a file, or a folder with other content.
    """
    if not output.is_dir():
        raise LumenError(f"{output} is a file: choose another {flag}")
    with explain_os_errors("read", output):
        record = OutputRecord.load(output)
        if record is None:
            found = next((path for path in foreign_in(output) if path not in adopted), None)
            if found is not None:
                raise LumenError(
                    f"{output} contains files that LumenSfM has no record of, such as {found.relative_to(output)}: "
                    f"choose another {flag}, or move them away"
                )
    if record is not None and record.kind != kind:
        raise LumenError(f"{output} is an output of {record.kind}: choose another {flag}")
    return record


def _claim_output(output: Path, kind: str, overwrite: bool) -> None:
    _recover(output)
    with explain_os_errors("write", output):
        if not os.path.lexists(output) or (output.is_dir() and is_empty(output)):
            return
    record = _record_of(output, kind, "--output")
    around = held_record(output)
    if record is None and around is not None and any(path in around for path in unlisted_in(output)):
        raise LumenError(f"{output} is part of an output of {around.kind}: choose another --output")
    if record is not None and not overwrite:
        raise LumenError(f"{output} already exists: pass --overwrite to replace it, or choose another --output")


def _publish(record: OutputRecord, final: Path) -> None:
    """Move a finished folder to its final name.

    An existing folder is first moved aside. Then the files of the user in it are moved back, and the others removed.
    If the process is killed in between, `_recover` completes or undoes the move.
    """
    if record.root.parent == final:
        _publish_upwards(record, final)
        return
    _recover(final)
    aside = final.with_name(f"{_ASIDE}{final.name}")
    work, users = record.root, record.foreign()
    with explain_os_errors("write", final):
        if os.path.lexists(final):
            _refuse_conflicts(record, final)
            # Users without access to the old folder must not get access to the new one.
            work.chmod(stat.S_IMODE(final.stat().st_mode))
            os.rename(final, aside)
        try:
            own(final / RECORD_NAME)
            os.rename(work, final)
        except OSError:
            if os.path.lexists(aside):
                os.rename(aside, final)
            raise
        record.root = final
        _move_back([path.relative_to(work) for path in users], final, work, record.kind)
        if aside.exists():
            _remove_replaced(aside, final)


def _move_back(users: Sequence[Path], final: Path, work: Path, kind: str) -> None:
    """Move files that the user put into the work folder back there."""
    if users:
        work.mkdir()
        own(work / RECORD_NAME)
        OutputRecord.create(work, kind)
    for name in users:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(final / name, work / name)


def _publish_upwards(record: OutputRecord, final: Path) -> None:
    """Move the files of a finished work folder into its parent. A kill leaves some of them in the work folder."""
    _refuse_conflicts(record, final)
    work = record.root
    old = OutputRecord.load(final)
    if old is not None:
        old.clear()
    listed = old or OutputRecord.create(final, record.kind)
    names = [path.relative_to(work) for path in files_under(work) if path != record.path]
    listed.adopt(final / name for name in names)
    with explain_os_errors("write", final):
        for name in names:
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / name, final / name)
    record.discard()
    record.root = final


def _refuse_conflicts(new: OutputRecord, final: Path) -> None:
    for path in unlisted_in(final):
        if path.is_relative_to(new.root):
            continue
        name = path.relative_to(final)
        taken = [new.root / name, *(new.root / parent for parent in name.parents if (new.root / parent).is_file())]
        if any(os.path.lexists(each) for each in taken):
            raise LumenError(f"{path} is in the way and was not written by LumenSfM: move it away")


def _recover(final: Path) -> None:
    """Complete or undo a `_publish` that was killed."""
    aside = final.with_name(f"{_ASIDE}{final.name}")
    with explain_os_errors("write", final):
        if not os.path.lexists(aside):
            return
        if not aside.is_dir() or (OutputRecord.load(aside) is None and not is_empty(aside)):
            raise LumenError(f"{aside} is in the way and was not written by LumenSfM: move it away")
        if os.path.lexists(final):
            _remove_replaced(aside, final)
        else:
            os.rename(aside, final)


def _remove_replaced(aside: Path, final: Path) -> None:
    """Remove a replaced output. Files of the user in it move to the new output."""
    for parent, folders, files in os.walk(aside):
        if not folders and not files:
            (final / Path(parent).relative_to(aside)).mkdir(parents=True, exist_ok=True)
    for path in unlisted_in(aside):
        target = final / path.relative_to(aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise LumenError(f"{path} cannot be moved back because {target} exists: move one of them away")
        os.rename(path, target)
    old = OutputRecord.load(aside) or OutputRecord(aside, "")
    old.discard()
