"""The folder that a command writes: what may be there before, and what of it is ever replaced or removed.

An output folder is new, empty, or has this tool's record of what it wrote there (`pipeline.outputs.record`). Anything
else is refused. A command either makes its output in a hidden folder beside it and moves it into place as a whole
(`work_folder`), or writes it in place file by file (`output_folder`). Files of the user in an output stay.
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
from pipeline.outputs.record import (
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
    """A hidden folder beside the output, held by this process.

    Attributes:
        path: where to write; it keeps what a killed run of the same command left.
        output: where `publish` puts it.
        record: of what is written into it.
    """

    path: Path
    output: Path
    record: OutputRecord
    _claim: Callable[[], None]

    def clear(self) -> None:
        """Remove what is in it."""
        self.record.clear()

    def discard(self) -> None:
        """Remove it, because nothing in it is worth resuming from. What is published already stays."""
        if self.record.root == self.path:
            self.record.discard()

    def remove_output(self) -> None:
        """Remove the old output before its inputs change.

        Raises:
            LumenError: if it may not be replaced, or cannot be removed.
        """
        self._claim()
        record = OutputRecord.load(self.output) if self.output.exists() else None
        if record is not None:
            record.clear()

    def publish(self, elsewhere: Path | None = None) -> None:
        """Move it to its place, or elsewhere, as a whole. What it replaces is removed; files of the user stay.

        Raises:
            LumenError: if something that may not be replaced has come there meanwhile, a file of the user has the name
                of a new one, or it cannot be moved.
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
    """Claim `output` and hold the hidden folder in which it is made.

    Args:
        output: the folder to be; what a killed `publish` left of it is put right first.
        kind: the command that makes such outputs; outputs of others are never replaced.
        inputs: what the command reads; the output may not overlap with it.
        overwrite: the user allows to replace an output of this kind.

    Raises:
        LumenError: if the output exists and was not to be replaced, holds something else, overlaps with an input, or
            cannot be written, or another process is making it.
    """
    output = _real_place(output)
    if held_record(output) is None:
        refuse_overlap(output, inputs)
    _refuse_busy(output)

    def claim() -> None:
        _claim_output(output, kind, overwrite)

    # Nothing moves from beside a mounted disk to its root.
    path = output / partial_path(output).name if os.path.ismount(output) else partial_path(output)
    with explain_os_errors("write", output):
        path.mkdir(parents=True, exist_ok=True)
    with held(path, busy=f"another process is making {output}: wait for it"):
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
        output: the folder; it is made if it is not there.
        kind: the command, or commands, that share such outputs.
        inputs: what the command reads; the output may not overlap with it.
        flag: that names another output, for errors.
        adopted: tells which files of a folder without a record are known to be this tool's all the same.

    Raises:
        LumenError: if the folder holds something else or overlaps with an input, cannot be written, or another process
            holds it.
    """
    output = _real_place(output)
    if held_record(output) is None:
        refuse_overlap(output, inputs, flag)
    _refuse_busy(output)
    is_new = not output.exists()
    with explain_os_errors("write", output):
        output.mkdir(parents=True, exist_ok=True)
    with held(output, busy=f"another process is writing to {output}: wait for it, or choose another {flag}"):
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
    """List what is written inside the block in the record of the output that a folder belongs to, if there is one.

    Args:
        folder: such as a sequence in the output of an extraction.
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
    """See that no other process is writing to an output around this one.

    Raises:
        LumenError: if one is.
    """
    for parent in Path(os.path.abspath(output)).parents:
        if (parent / RECORD_NAME).is_file() and not is_held(parent):
            with held(parent, busy=f"another process is writing to {parent}: wait for it"):
                pass


def refuse_overlap(output: Path, inputs: Iterable[Path | None], flag: str = "--output") -> None:
    """See that an output folder and what is read share no place.

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
    """The folder itself where a link is given: it is written through the link."""
    is_named = output.name not in ("", "..")
    with explain_os_errors("write", output):
        return output if is_named and not output.is_symlink() else output.resolve()


def _close(record: OutputRecord) -> None:
    """Leave the record in its fixed order, or remove it if nothing was written."""
    # What ended the block may be a full disk. It is what the user has to know.
    with suppress(LumenError):
        record.tidy()
    if record.is_blank:
        record.path.unlink(missing_ok=True)


def _claim_work(path: Path, kind: str) -> OutputRecord:
    """The record of the work folder: of a killed run, or a new one."""
    record = OutputRecord.load(path)
    if record is None or record.kind != kind:
        found = next(iter(foreign_in(path)), None)
        if found is not None or record is not None:
            raise LumenError(f"{path} is in the way, {kind} did not make it: move it away")
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
    """The record of an output of this kind; None if it is empty.

    Raises:
        LumenError: if there is anything else.
    """
    if not output.is_dir():
        raise LumenError(f"{output} is a file: choose another {flag}")
    with explain_os_errors("read", output):
        record = OutputRecord.load(output)
        if record is None:
            found = next((path for path in foreign_in(output) if path not in adopted), None)
            if found is not None:
                raise LumenError(
                    f"{output} holds files that LumenSfM has no record of, such as {found.relative_to(output)}: choose "
                    f"another {flag}, or move them away"
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
        raise LumenError(f"{output} is a part of an output of {around.kind}: choose another --output")
    if record is not None and not overwrite:
        raise LumenError(f"{output} exists already: pass --overwrite to replace it, or choose another --output")


def _publish(record: OutputRecord, final: Path) -> None:
    """Move a finished folder to its final name.

    An existing one is first moved aside, then removed but for files of the user, which are moved back. `_recover` does
    the rest if the process is killed in between.
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
            # Whoever could not look into the old folder cannot look into the new one.
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
    """Move files of the user, which were in a work folder, back to where they were."""
    if users:
        work.mkdir()
        own(work / RECORD_NAME)
        OutputRecord.create(work, kind)
    for name in users:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(final / name, work / name)


def _publish_upwards(record: OutputRecord, final: Path) -> None:
    """Move the files of a finished work folder into the folder around it; a kill leaves a part of them."""
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
            raise LumenError(f"{path} is in the way, LumenSfM did not write it: move it away")


def _recover(final: Path) -> None:
    """Finish or undo a `_publish` that was killed."""
    aside = final.with_name(f"{_ASIDE}{final.name}")
    with explain_os_errors("write", final):
        if not os.path.lexists(aside):
            return
        if not aside.is_dir() or (OutputRecord.load(aside) is None and not is_empty(aside)):
            raise LumenError(f"{aside} is in the way, LumenSfM did not make it: move it away")
        if os.path.lexists(final):
            _remove_replaced(aside, final)
        else:
            os.rename(aside, final)


def _remove_replaced(aside: Path, final: Path) -> None:
    """Remove an output that was replaced; files of the user in it move to the new one."""
    for parent, folders, files in os.walk(aside):
        if not folders and not files:
            (final / Path(parent).relative_to(aside)).mkdir(parents=True, exist_ok=True)
    for path in unlisted_in(aside):
        target = final / path.relative_to(aside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise LumenError(f"{path} could not be moved back, {target} is in the way: move one of them away")
        os.rename(path, target)
    old = OutputRecord.load(aside) or OutputRecord(aside, "")
    old.discard()
