"""The record of the files that LumenSfM wrote into an output folder. No other file there is ever replaced or removed.

The record is the file `.lumensfm` in the folder: one line with the kind of the output, then one line per file. A file
is listed before it is written, so that a killed command leaves no unlisted file.
"""

import fnmatch
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.locks import held

RECORD_NAME = ".lumensfm"
FORMAT_VERSION = 1
_TOOL = "LumenSfM"
# Files that desktops and file systems create by themselves. A folder with nothing else counts as empty.
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory", "lost+found", ".nfs*", ".lock*")
# A partially written record, left by a killed process.
_PARTIAL_RECORD = f".partial.{RECORD_NAME}"


class OutputRecord:
    """The files that LumenSfM wrote into one output folder.

    Attributes:
        root: the folder.
        kind: the command that writes the output; commands replace only outputs of their own kind.
        is_shared: whether other processes may add to the record at the same time.
    """

    is_shared = False

    def __init__(self, root: Path, kind: str) -> None:
        self.root = root
        self.kind = kind
        self._files: set[str] = set()
        self._scratch: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    @classmethod
    def create(cls, root: Path, kind: str) -> "OutputRecord":
        """Create the record of an existing output folder.

        Raises:
            LumenError: if the record cannot be written.
        """
        record = cls(root, kind)
        record._save()
        return record

    @classmethod
    def load(cls, root: Path) -> "OutputRecord | None":
        """Read the record of a folder; None if the folder has none.

        Raises:
            LumenError: if the record cannot be read, or is damaged.
        """
        path = root / RECORD_NAME
        with explain_os_errors("read", path):
            if not path.is_file():
                return None
            lines = path.read_bytes().split(b"\n")
        head = _parsed(lines[0])
        if not isinstance(head, dict) or head.get("tool") != _TOOL or head.get("format_version") != FORMAT_VERSION:
            raise LumenError(
                f"{path} is damaged or from another version: move {root} away, or choose another place for the output"
            )
        record = cls(root, str(head.get("kind")))
        record._take(lines[1:])
        return record

    @property
    def path(self) -> Path:
        """The file of the record."""
        return self.root / RECORD_NAME

    @property
    def is_blank(self) -> bool:
        """Whether the record lists no files."""
        return not self._files and not self._scratch

    def __contains__(self, path: Path) -> bool:
        """Whether LumenSfM wrote `path`, a file in the folder."""
        name = self._name(path)
        if name.startswith("../"):
            return False
        lasting = self._name(_lasting(path))
        # A kill may leave the partial record.
        return lasting == RECORD_NAME or name in self._files or lasting in self._files or self._is_scratch(name)

    def lists_any(self, folder: Path) -> bool:
        """Whether the record lists any file in `folder`."""
        prefix = self._name(folder)
        return any(_is_under(name, [prefix]) for name in self._files)

    def add(self, path: Path) -> None:
        """List a file before it is written.

        Raises:
            LumenError: if a file exists there that LumenSfM did not write.
        """
        name = self._name(path)
        if name in self._files:
            return
        with self._alone():
            if os.path.lexists(path) and not self._is_scratch(name):
                self._take_again()
                if name in self._files:
                    return
                raise LumenError(f"{path} is in the way and was not written by LumenSfM: move it away")
            self._files.add(name)
            self._append(name)

    def adopt(self, paths: Iterable[Path]) -> None:
        """List existing files that LumenSfM wrote, for example a version without records."""
        with self._alone():
            self._files |= {self._name(path) for path in paths}
            self._save()

    def add_scratch(self, folder: Path, names: Sequence[str]) -> None:
        """List a folder in which other programs, such as COLMAP, write files with these names (patterns)."""
        name = self._name(folder)
        with self._alone():
            if self._scratch.get(name) != tuple(names):
                self._scratch[name] = tuple(names)
                self._append({"scratch": name, "names": list(names)})

    def foreign(self) -> list[Path]:
        """The files in the folder that LumenSfM did not write, including links to folders."""
        is_ours = self._ownership()
        return sorted(path for path in files_under(self.root) if not is_ours(path))

    def remove(self, *paths: Path) -> None:
        """Remove those of the files, and of the files in the folders, that LumenSfM wrote; then remove empty folders.

        Raises:
            LumenError: if a file cannot be removed.
        """
        is_ours = self._ownership()
        kept: set[str] = set()
        with explain_os_errors("remove", self.root):
            for path in paths:
                # A link passed as an argument is followed.
                files = list(files_under(path)) if path.is_dir() else [path]
                # Records last: a kill in between must not leave unlisted files.
                for file in sorted(filter(is_ours, files), key=_records_last):
                    if file.name == RECORD_NAME and _is_needed(file):
                        kept.add(self._name(file))
                    elif file != self.path:
                        file.unlink(missing_ok=True)
                _remove_empty_folders(path)
        prefixes = [self._name(path) for path in paths]
        with self._alone():
            self._take_again()
            self._files = {name for name in self._files if name in kept or not _is_under(name, prefixes)}
            self._scratch = {name: names for name, names in self._scratch.items() if not _is_under(name, prefixes)}
            self._save()

    def tidy(self) -> None:
        """Write the record sorted and without missing files, so that equal outputs have equal records."""
        with self._alone():
            self._take_again()
            self._files = {name for name in self._files if os.path.lexists(self.root / name)}
            self._scratch = {name: names for name, names in self._scratch.items() if (self.root / name).is_dir()}
            self._save()

    def clear(self) -> None:
        """Remove everything in the folder that LumenSfM wrote, except the record."""
        with explain_os_errors("remove", self.root):
            children = [child for child in self.root.iterdir() if child != self.path]
        self.remove(*children)

    def discard(self) -> None:
        """Remove everything that LumenSfM wrote. The record stays if files of the user do, to allow a new output."""
        self.clear()
        with explain_os_errors("remove", self.root):
            if not any(path != self.path for path in files_under(self.root)):
                self.path.unlink(missing_ok=True)
            _remove_empty_folders(self.root)

    def _ownership(self) -> Callable[[Path], bool]:
        """A function that tells whether this record, or that of an output inside the folder, lists a file."""
        inner: dict[Path, Callable[[Path], bool] | None] = {}

        def is_ours(path: Path) -> bool:
            if path in self:
                return True
            for folder in takewhile(lambda each: each != self.root, path.parents):
                if folder / RECORD_NAME in self:
                    if folder not in inner:
                        record = OutputRecord.load(folder)
                        inner[folder] = None if record is None else record._ownership()
                    listed = inner[folder]
                    return listed is not None and listed(path)
            return False

        return is_ours

    def _is_scratch(self, name: str) -> bool:
        own = name.rpartition("/")[2]
        return any(
            _is_under(name, [folder]) and any(fnmatch.fnmatchcase(own, pattern) for pattern in patterns)
            for folder, patterns in self._scratch.items()
        )

    def _name(self, path: Path) -> str:
        place, root = _inside(path, self.root) or (os.path.abspath(path), os.path.abspath(self.root))
        return os.path.relpath(place, root).replace(os.sep, "/")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclude other threads, and other processes if the record is shared."""
        with self._lock, held(self.path) if self.is_shared else nullcontext():
            yield

    def _take(self, lines: Iterable[bytes]) -> None:
        # The last line is empty, or truncated by a kill, in which case its file was not written.
        for line in map(_parsed, lines):
            if isinstance(line, str):
                self._files.add(line)
            elif isinstance(line, dict) and isinstance(line.get("names"), list):
                self._scratch[str(line.get("scratch"))] = tuple(map(str, line["names"]))

    def _take_again(self) -> None:
        """Add entries of other processes, such as the first SfM of another sequence of the same extraction."""
        with explain_os_errors("read", self.path):
            if self.path.exists():
                self._take(self.path.read_bytes().split(b"\n")[1:])

    def _append(self, line: Any) -> None:
        with explain_os_errors("write", self.path), self.path.open("ab") as stream:
            # Starts with a newline, too: a kill may have truncated the previous line.
            stream.write(b"\n" + _line(line))

    def _save(self) -> None:
        """Rewrite the record without removed entries and without a truncated line."""
        lines: list[Any] = [{"tool": _TOOL, "format_version": FORMAT_VERSION, "kind": self.kind}]
        lines += [{"scratch": name, "names": list(names)} for name, names in self._scratch.items()]
        partial = self.path.with_name(_PARTIAL_RECORD)
        with explain_os_errors("write", self.path):
            try:
                partial.write_bytes(b"".join(map(_line, [*lines, *sorted(self._files)])))
                os.replace(partial, self.path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise


_open: list[OutputRecord] = []
_open_lock = threading.Lock()


@contextmanager
def recording(record: OutputRecord) -> Iterator[OutputRecord]:
    """List files that are written into the record's folder inside the block (`own`)."""
    with _open_lock:
        _open.append(record)
    try:
        yield record
    finally:
        with _open_lock:
            _open.remove(record)


def own(path: Path) -> None:
    """List a file, before it is written, in the record of its output folder, if this process holds that.

    Raises:
        LumenError: if a file exists there that LumenSfM did not write.
    """
    record = held_record(path)
    if record is not None and not any(path in other for other in _open):
        record.add(path)


def own_scratch(folder: Path, names: Sequence[str]) -> None:
    """Like `own`, for a folder in which other programs write files with these names (patterns)."""
    record = held_record(folder)
    if record is not None:
        record.add_scratch(folder, names)


def remove_own(*paths: Path) -> None:
    """Like `OutputRecord.remove`, for paths in any output folders that this process holds."""
    by_record: dict[OutputRecord, list[Path]] = {}
    for path in paths:
        record = held_record(path)
        if record is not None:
            by_record.setdefault(record, []).append(path)
    for record, those in by_record.items():
        record.remove(*those)


def held_record(path: Path) -> OutputRecord | None:
    """The record of the innermost output folder that contains `path` and that this process holds."""
    around = [record for record in _open if _inside(path, record.root)]
    return max(around, key=lambda record: len(os.path.abspath(record.root)), default=None)


def share_output(first: Path, second: Path) -> bool:
    """Whether two paths are in one output folder that this process holds."""
    return any(_inside(first, record.root) and _inside(second, record.root) for record in _open)


def is_empty(folder: Path) -> bool:
    """Whether a folder has no files except those that desktops and file systems create."""
    return all(_is_clutter(child) for child in folder.iterdir())


def is_held(folder: Path) -> bool:
    """Whether this process holds the record of exactly this folder."""
    return any(os.path.realpath(record.root) == os.path.realpath(folder) for record in _open)


def unlisted_in(folder: Path) -> list[Path]:
    """The files in a folder that its record does not list; all files if the folder has no record."""
    record = OutputRecord.load(folder)
    return list(files_under(folder)) if record is None else record.foreign()


def foreign_in(folder: Path) -> list[Path]:
    """The files in a folder that neither its record lists nor any record that this process holds."""
    return [path for path in unlisted_in(folder) if not _is_clutter(path) and not any(path in each for each in _open)]


def _inside(path: Path, folder: Path) -> tuple[str, str] | None:
    """A path and its containing folder, both as written or both with links resolved; None if it is outside."""
    place, root = os.path.abspath(path), os.path.abspath(folder)
    if _begins_with(place, root):
        return place, root
    place, root = os.path.join(os.path.realpath(path.parent), path.name), os.path.realpath(folder)
    return (place, root) if _begins_with(place, root) else None


def _begins_with(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _is_needed(record: Path) -> bool:
    """Whether an inner output contains other files. Without its record, it would count as the user's folder."""
    inner = OutputRecord.load(record.parent)
    if inner is None or not any(file.name != RECORD_NAME for file in files_under(record.parent)):
        return False
    inner.tidy()
    return True


def _records_last(path: Path) -> tuple[bool, int]:
    """A sort key that puts records after other files, and inner records before outer ones."""
    return path.name == RECORD_NAME, -len(path.parts)


def _is_under(name: str, prefixes: Iterable[str]) -> bool:
    return any(prefix == "." or name == prefix or name.startswith(f"{prefix}/") for prefix in prefixes)


def _is_clutter(path: Path) -> bool:
    return path.name == _PARTIAL_RECORD or any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _CLUTTER)


def files_under(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders. Links to folders are returned, not followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in [*files, *links])


def _lasting(path: Path) -> Path:
    """The final path of a file with a temporary name."""
    return path.with_name(path.name.removeprefix(".partial.") or path.name)


def _remove_empty_folders(path: Path) -> None:
    """Remove the empty folders in `path`, and `path` if it is empty then."""
    if path.is_symlink() or not path.is_dir():
        return
    for parent, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):
            os.rmdir(parent)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _line(content: Any) -> bytes:
    # Names that are not UTF-8 have lone surrogates, which JSON writes as escapes.
    return json.dumps(content).encode() + b"\n"
