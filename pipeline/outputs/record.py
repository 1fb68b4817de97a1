"""The record of what this tool wrote into an output folder; it never replaces or removes anything else in there.

The record is the file `.lumensfm` in the folder: a line with the kind of the output, then a line for each file. A file
is listed before it is written, so that a killed command leaves no file of its own that the record does not know.
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
# What desktops and file systems leave in a folder by themselves. It does not make a folder somebody's.
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory", "lost+found", ".nfs*", ".lock*")
# The record that a kill left unfinished.
_PARTIAL_RECORD = f".partial.{RECORD_NAME}"


class OutputRecord:
    """What this tool wrote into one output folder.

    Attributes:
        root: the folder.
        kind: of the output, the command that makes it; commands replace only outputs of their own kind.
        is_shared: other processes may add to the record at the same time.
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
        """Start the record of an output folder that exists.

        Raises:
            LumenError: if it cannot be written.
        """
        record = cls(root, kind)
        record._save()
        return record

    @classmethod
    def load(cls, root: Path) -> "OutputRecord | None":
        """Read the record of a folder; None if it has none.

        Raises:
            LumenError: if it cannot be read, or is damaged.
        """
        path = root / RECORD_NAME
        with explain_os_errors("read", path):
            if not path.is_file():
                return None
            lines = path.read_bytes().split(b"\n")
        head = _parsed(lines[0])
        if not isinstance(head, dict) or head.get("tool") != _TOOL or head.get("format_version") != FORMAT_VERSION:
            raise LumenError(
                f"{path} is damaged or of another version: move {root} away, or choose another place for the output"
            )
        record = cls(root, str(head.get("kind")))
        record._take(lines[1:])
        return record

    @property
    def path(self) -> Path:
        """The record itself."""
        return self.root / RECORD_NAME

    @property
    def is_blank(self) -> bool:
        """Whether it lists nothing."""
        return not self._files and not self._scratch

    def __contains__(self, path: Path) -> bool:
        """Whether this tool wrote `path`, a file in the folder."""
        name = self._name(path)
        if name.startswith("../"):
            return False
        lasting = self._name(_lasting(path))
        return name == RECORD_NAME or name in self._files or lasting in self._files or self._is_scratch(name)

    def lists_any(self, folder: Path) -> bool:
        """Whether it lists a file in a folder."""
        prefix = self._name(folder)
        return any(_is_under(name, [prefix]) for name in self._files)

    def add(self, path: Path) -> None:
        """List a file that is about to be written.

        Raises:
            LumenError: if there is a file that this tool did not write.
        """
        name = self._name(path)
        if name in self._files:
            return
        with self._alone():
            if os.path.lexists(path) and not self._is_scratch(name):
                self._take_again()
                if name in self._files:
                    return
                raise LumenError(f"{path} is in the way, LumenSfM did not write it: move it away")
            self._files.add(name)
            self._append(name)

    def adopt(self, paths: Iterable[Path]) -> None:
        """List files that are known to be of this tool, such as those of a version that kept no record."""
        with self._alone():
            self._files |= {self._name(path) for path in paths}
            self._save()

    def add_scratch(self, folder: Path, names: Sequence[str]) -> None:
        """List a folder in which other tools, such as COLMAP, write files of these names (patterns)."""
        name = self._name(folder)
        with self._alone():
            if self._scratch.get(name) != tuple(names):
                self._scratch[name] = tuple(names)
                self._append({"scratch": name, "names": list(names)})

    def foreign(self) -> list[Path]:
        """The files in the folder that this tool did not write, links to folders included."""
        is_ours = self._ownership()
        return sorted(path for path in files_under(self.root) if not is_ours(path))

    def remove(self, *paths: Path) -> None:
        """Remove files and folders, but only what this tool wrote of them; folders that become empty go, too.

        Raises:
            LumenError: if something cannot be removed.
        """
        is_ours = self._ownership()
        kept: set[str] = set()
        with explain_os_errors("remove", self.root):
            for path in paths:
                # A link that is given itself is looked through.
                files = list(files_under(path)) if path.is_dir() else [path]
                # Records last: a kill in between must not leave files that no record lists.
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
        """Write the record in a fixed order, without files that are gone: the same output has the same record."""
        with self._alone():
            self._take_again()
            self._files = {name for name in self._files if os.path.lexists(self.root / name)}
            self._scratch = {name: names for name, names in self._scratch.items() if (self.root / name).is_dir()}
            self._save()

    def clear(self) -> None:
        """Remove everything in the folder that this tool wrote, except the record."""
        with explain_os_errors("remove", self.root):
            children = [child for child in self.root.iterdir() if child != self.path]
        self.remove(*children)

    def discard(self) -> None:
        """Remove everything that this tool wrote; the record stays beside files of the user, to write there again."""
        self.clear()
        with explain_os_errors("remove", self.root):
            if not any(path != self.path for path in files_under(self.root)):
                self.path.unlink(missing_ok=True)
            _remove_empty_folders(self.root)

    def _ownership(self) -> Callable[[Path], bool]:
        """Tells whether this record, or that of an output inside the folder, lists a file."""
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
        """Keep other threads away, and other processes if the record is shared."""
        with self._lock, held(self.path) if self.is_shared else nullcontext():
            yield

    def _take(self, lines: Iterable[bytes]) -> None:
        # The last line is empty, or was cut off by a kill before its file was written.
        for line in map(_parsed, lines):
            if isinstance(line, str):
                self._files.add(line)
            elif isinstance(line, dict) and isinstance(line.get("names"), list):
                self._scratch[str(line.get("scratch"))] = tuple(map(str, line["names"]))

    def _take_again(self) -> None:
        """Take what another process has added, such as the first SfM of another sequence of the same extraction."""
        with explain_os_errors("read", self.path):
            if self.path.exists():
                self._take(self.path.read_bytes().split(b"\n")[1:])

    def _append(self, line: Any) -> None:
        with explain_os_errors("write", self.path), self.path.open("ab") as stream:
            # In front as well: a kill may have cut off the line before.
            stream.write(b"\n" + _line(line))

    def _save(self) -> None:
        """Write the record anew: without what was removed, and without a line that a kill has cut off."""
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
    """List what is written into the record's folder inside the block (`own`)."""
    with _open_lock:
        _open.append(record)
    try:
        yield record
    finally:
        with _open_lock:
            _open.remove(record)


def own(path: Path) -> None:
    """List a file that is about to be written in the record of the output that it lies in, if this process holds one.

    Raises:
        LumenError: if there is a file that this tool did not write.
    """
    record = held_record(path)
    if record is not None and not any(path in other for other in _open):
        record.add(path)


def own_scratch(folder: Path, names: Sequence[str]) -> None:
    """As `own`, for a folder in which others write files of these names (patterns)."""
    record = held_record(folder)
    if record is not None:
        record.add_scratch(folder, names)


def remove_own(*paths: Path) -> None:
    """Remove files and folders of outputs that this process holds, but only what this tool wrote of them."""
    by_record: dict[OutputRecord, list[Path]] = {}
    for path in paths:
        record = held_record(path)
        if record is not None:
            by_record.setdefault(record, []).append(path)
    for record, those in by_record.items():
        record.remove(*those)


def held_record(path: Path) -> OutputRecord | None:
    """The record of the innermost output around `path` that this process holds."""
    around = [record for record in _open if _inside(path, record.root)]
    return max(around, key=lambda record: len(os.path.abspath(record.root)), default=None)


def share_output(first: Path, second: Path) -> bool:
    """Whether two paths lie in one output that this process holds."""
    return any(_inside(first, record.root) and _inside(second, record.root) for record in _open)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what desktops and file systems leave."""
    return all(_is_clutter(child) for child in folder.iterdir())


def is_held(folder: Path) -> bool:
    """Whether this process holds the record of just this folder."""
    return any(os.path.realpath(record.root) == os.path.realpath(folder) for record in _open)


def unlisted_in(folder: Path) -> list[Path]:
    """The files in a folder that its record does not list; all of them if it has none."""
    record = OutputRecord.load(folder)
    return list(files_under(folder)) if record is None else record.foreign()


def foreign_in(folder: Path) -> list[Path]:
    """The files in a folder that neither its record lists nor that of an output around it which this process holds."""
    return [path for path in unlisted_in(folder) if not _is_clutter(path) and not any(path in each for each in _open)]


def _inside(path: Path, folder: Path) -> tuple[str, str] | None:
    """A path and the folder that it lies in, both as they are written or both without links; None if it does not."""
    place, root = os.path.abspath(path), os.path.abspath(folder)
    if _begins_with(place, root):
        return place, root
    place, root = os.path.join(os.path.realpath(path.parent), path.name), os.path.realpath(folder)
    return (place, root) if _begins_with(place, root) else None


def _begins_with(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _is_needed(record: Path) -> bool:
    """Whether an inner output still holds files of the user, which would look like somebody's without its record."""
    inner = OutputRecord.load(record.parent)
    if inner is None or not any(file.name != RECORD_NAME for file in files_under(record.parent)):
        return False
    inner.tidy()
    return True


def _records_last(path: Path) -> tuple[bool, int]:
    """Sorts records behind other files, and inner ones before those around them."""
    return path.name == RECORD_NAME, -len(path.parts)


def _is_under(name: str, prefixes: Iterable[str]) -> bool:
    return any(prefix == "." or name == prefix or name.startswith(f"{prefix}/") for prefix in prefixes)


def _is_clutter(path: Path) -> bool:
    return path.name == _PARTIAL_RECORD or any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _CLUTTER)


def files_under(folder: Path) -> Iterator[Path]:
    """Everything in a folder that is no folder; a link to a folder is not followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in [*files, *links])


def _lasting(path: Path) -> Path:
    """The name that a file with a temporary name is going to have."""
    return path.with_name(path.name.removeprefix(".partial.") or path.name)


def _remove_empty_folders(path: Path) -> None:
    """Remove the folders in `path`, and itself, as far as they are empty."""
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
    # Names that are not UTF-8 hold lone surrogates, which JSON writes as escapes.
    return json.dumps(content).encode() + b"\n"
