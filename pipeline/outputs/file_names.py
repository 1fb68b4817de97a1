"""File names where something other than the operating system reads them: FFmpeg, a terminal, a text file.

Python keeps the bytes of a name that are not valid text as lone surrogates (PEP 383). The operating system takes them
back; encoders of text refuse them.
"""

import codecs
import os
from pathlib import Path

BYTES_OR_ESCAPES = "pipeline.bytes_or_escapes"
"""An error handler of text streams: a byte of a file name as it is, any other character as an escape sequence."""


def printable(text: str) -> str:
    r"""Text that every UTF-8 encoder takes: a byte of a file name that is not valid text becomes `\xe9`."""
    return text.encode("utf-8", BYTES_OR_ESCAPES).decode("utf-8", "backslashreplace")


def ffmpeg_url(path: Path) -> str:
    """The path as FFmpeg reads it: it would take a name such as `12:30.mp4` for a protocol."""
    return f"file:{os.path.abspath(path)}"


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(BYTES_OR_ESCAPES, _bytes_or_escapes)
