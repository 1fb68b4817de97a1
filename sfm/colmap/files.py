"""Check that the files of a COLMAP model are complete: COLMAP hangs on some truncated files and accepts others.

The layouts are those of COLMAP 4: little-endian, a count followed by as many records. Older models have no rigs.bin and
no frames.bin.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import pycolmap

from pipeline.errors import LumenError, explain_os_errors
from sfm.colmap.text import ModelText, read_model_text

_POSE = 7 * 8


class _Bytes:
    """Forward reader of a file's content; raises struct.error past the end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def read(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self._content, self._at)
        self._at += struct.calcsize(f"<{form}")
        return int(value)

    def skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._content):
            raise struct.error("past the end")

    def skip_string(self) -> None:
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise struct.error("a string without a terminator")
        self._at = end + 1

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._content)


def _camera(file: _Bytes) -> None:
    file.skip(4)
    model = file.read("i")
    file.skip(2 * 8)
    try:
        params = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1.0, 2, 2).params
    except (ValueError, RuntimeError) as error:
        raise struct.error("an unknown camera model") from error
    file.skip(8 * len(params))


def _image(file: _Bytes) -> None:
    file.skip(4 + _POSE + 4)
    file.skip_string()
    file.skip(24 * file.read("Q"))


def _point(file: _Bytes) -> None:
    # Point ID, position, colour and error.
    file.skip(8 + 3 * 8 + 3 + 8)
    file.skip(8 * file.read("Q"))


def _rig(file: _Bytes) -> None:
    file.skip(4)
    sensors = file.read("I")
    for sensor in range(sensors):
        file.skip(8)
        if sensor and file.read("B"):
            file.skip(_POSE)


def _frame(file: _Bytes) -> None:
    file.skip(4 + 4 + _POSE)
    file.skip((8 + 8) * file.read("I"))


_RECORDS: dict[str, Callable[[_Bytes], None]] = {
    "cameras": _camera,
    "images": _image,
    "points3D": _point,
    "rigs": _rig,
    "frames": _frame,
}
_REQUIRED = ("cameras", "images", "points3D")


def check_model_files(folder: Path) -> dict[str, ModelText]:
    """Check that the files of a COLMAP model hold as many records as they declare; binary takes precedence.

    Returns:
        File stem → content, for each file of a text model; empty for a binary model.

    Raises:
        LumenError: if a file is missing, unreadable, truncated or damaged.
    """
    form = "bin" if (folder / "cameras.bin").exists() else "txt"
    paths = [folder / f"{name}.{form}" for name in _RECORDS]
    paths = [path for path in paths if path.exists() or path.stem in _REQUIRED]
    newer = [path for path in paths if path.stem not in _REQUIRED]
    if len(newer) == 1:
        raise LumenError(
            f"{folder} holds only {newer[0].name}: a model has both rigs.{form} and frames.{form}, or neither"
        )
    if form == "txt":
        return {path.stem: read_model_text(path) for path in paths}
    for path in paths:
        with explain_os_errors("read", path):
            content = path.read_bytes()
        if not _is_whole_binary(path.stem, content):
            raise LumenError(f"{path} is truncated or damaged: copy the model again")
    return {}


def is_whole(folder: Path) -> bool:
    """Whether a model passes `check_model_files`."""
    try:
        check_model_files(folder)
    except LumenError:
        return False
    return True


def _is_whole_binary(name: str, content: bytes) -> bool:
    file = _Bytes(content)
    try:
        for _ in range(file.read("Q")):
            _RECORDS[name](file)
    except (struct.error, OverflowError):
        return False
    return file.is_at_end
