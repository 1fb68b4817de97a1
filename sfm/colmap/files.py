"""Whether the files of a COLMAP model are whole: COLMAP reads some that are cut off for ever, and believes others.

The layouts are those of COLMAP 4: little-endian, each file a count and then as many records. Older models have no
rigs.bin and no frames.bin.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import pycolmap

from pipeline.errors import LumenError, explain_os_errors
from sfm.colmap.text import ModelText, read_model_text

_POSE = 7 * 8


class _Bytes:
    """A file's content, gone over from front to back; what is past the end is a struct.error."""

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

    def skip_text(self) -> None:
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise struct.error("a text without an end")
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
    file.skip_text()
    file.skip(24 * file.read("Q"))


def _point(file: _Bytes) -> None:
    # Number, position, colour and error.
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
    """Check that the files of a COLMAP model, binary or else text, hold as much as they say.

    Returns:
        The content of each text file by its stem; nothing for a binary model.

    Raises:
        LumenError: if one is missing, cannot be read, is cut off or damaged.
    """
    form = "bin" if (folder / "cameras.bin").exists() else "txt"
    paths = [folder / f"{name}.{form}" for name in _RECORDS]
    paths = [path for path in paths if path.exists() or path.stem in _REQUIRED]
    newer = [path for path in paths if path.stem not in _REQUIRED]
    if len(newer) == 1:
        raise LumenError(f"{folder} holds {newer[0].name} alone: a model has rigs.{form} and frames.{form}, or neither")
    if form == "txt":
        return {path.stem: read_model_text(path) for path in paths}
    for path in paths:
        with explain_os_errors("read", path):
            content = path.read_bytes()
        if not _is_whole_binary(path.stem, content):
            raise LumenError(f"{path} is cut off or damaged: copy the model again")
    return {}


def is_whole(folder: Path) -> bool:
    """Whether `check_model_files` finds nothing."""
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
