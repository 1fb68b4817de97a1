"""File names for FFmpeg, terminals and text files.

Python decodes bytes of a name that are not valid text as lone surrogates (PEP 383). The operating system accepts these
names, but text encoders reject them.
"""

import codecs
import os
from pathlib import Path

BYTES_OR_ESCAPES = "pipeline.bytes_or_escapes"
"""An error handler for text streams: writes a byte of a file name as it is, other characters as escape sequences."""


def printable(text: str) -> str:
    r"""Text that every UTF-8 encoder accepts. A byte of a file name that is not valid text becomes `\xe9`."""
    return text.encode("utf-8", BYTES_OR_ESCAPES).decode("utf-8", "backslashreplace")


def ffmpeg_url(path: Path) -> str:
    """The path as a URL for FFmpeg, which reads the `12` of `12:30.mp4` as a protocol."""
    return f"file:{os.path.abspath(path)}"


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(BYTES_OR_ESCAPES, _bytes_or_escapes)
