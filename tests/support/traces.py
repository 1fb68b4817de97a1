"""Search all files in a folder for words that must not occur."""

import platform
import socket
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest

MACHINE, PATIENT = "machine-of-doctor-zuse", "Zuse_Konrad"

_PNG = b"\x89PNG\r\n\x1a\n"
_SQLITE = b"SQLite format 3\0"


def find_traces(folder: Path, words: Sequence[str]) -> list[str]:
    """Occurrences of words, ignoring case, in file names, bytes, and inside archives, databases and PNG files."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        contents: Iterable[tuple[str, bytes]] = _contents(path, path.read_bytes()) if path.is_file() else ()
        link = [("link", str(path.readlink()).encode())] if path.is_symlink() else []
        for part, data in [("name", name.encode()), *link, *contents]:
            found += [f"{word!r} in the {part} of {name}" for word in words if _holds(data, word)]
    return found


def _holds(data: bytes, word: str) -> bool:
    low = data.lower()
    return any(word.lower().encode(encoding) in low for encoding in ("utf-8", "utf-16-le", "utf-16-be"))


def _contents(path: Path, data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "bytes", data
    if data.startswith(_SQLITE):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            yield "database", "\n".join(database.iterdump()).encode()
    if data.startswith(_PNG):
        yield from _png_texts(data)
    if zipfile.is_zipfile(BytesIO(data)):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for member in archive.infolist():
                yield f"member {member.filename}", member.filename.encode() + archive.read(member)


def _png_texts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The compressed text chunks."""
    place = len(_PNG)
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            yield kind.decode(), _inflated(content)
        place += length + 12


def _inflated(chunk: bytes) -> bytes:
    """The decompressed text of a chunk, in which the compressed part may start anywhere."""
    for start in range(len(chunk)):
        try:
            return zlib.decompress(chunk[start:])
        except zlib.error:
            continue
    return chunk


def name_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine a unique name."""
    monkeypatch.setattr(socket, "gethostname", lambda: MACHINE)
    monkeypatch.setattr(platform, "node", lambda: MACHINE)


def files_that_say(folder: Path, *texts: str) -> list[str]:
    """Occurrences of texts in names and contents of files below a folder (`find_traces`)."""
    return find_traces(folder, texts)
