"""Check that the text files of a COLMAP model are complete, and normalize them so that COLMAP reads all of it.

COLMAP drops the last image if its line of points is missing, confuses lines of points with lines of images, ends names
at a space, and does not skip a byte order mark. Other programs and editors write all of these.
"""

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from pipeline.errors import LumenError, explain_os_errors

_COUNT = re.compile(r"#\s*Number of \w+:\s*(\d+)")
_IMAGE_FIELDS = 10
_POINT_FIELDS = 8
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelText:
    """One text file of a model.

    Attributes:
        content: normalized lines: each ends with a newline, and a line of points follows each image.
        is_as_written: whether the file itself is already normalized.
        may_lack_an_end: whether the last line has no newline, or the last image no line of points.
    """

    content: str
    is_as_written: bool
    may_lack_an_end: bool


def read_model_text(path: Path) -> ModelText:
    """Read one text file of a COLMAP model.

    Args:
        path: cameras.txt, images.txt, points3D.txt, rigs.txt or frames.txt.

    Raises:
        LumenError: if the file cannot be read, a line does not have COLMAP's format, or the header declares more
            records.
    """
    with explain_os_errors("read", path):
        written = path.read_bytes().decode("utf-8", errors="replace")
    # str.splitlines also splits at characters that a name may contain.
    lines = [line.removesuffix("\r") for line in written.removeprefix("\ufeff").split("\n")]
    has_end = not lines[-1]
    if has_end:
        del lines[-1]
    records = _records(path.stem, lines)
    for number, line, form in records:
        if not form.holds(line):
            raise _damage(path, f"line {number} is not {form.fields}")
    found = sum(form is not _POINTS2D for _, _, form in records)
    if (declared := _count_in_header(lines)) is not None and found < declared:
        raise _damage(
            path, f"its header declares {declared} {path.stem}, but it holds {found}", ", or correct the number"
        )
    lacks_points = bool(records) and records[-1][2] is _IMAGE
    if records and not has_end:
        if lacks_points:
            _check_last_name(path, records)
        logger.info("%s: the last line does not end with a newline; assuming that it is complete", path)
    content = "".join(f"{line}\n" for line in [*lines, *([""] if lacks_points else [])])
    return ModelText(content, content == written.replace("\r\n", "\n"), bool(records) and (lacks_points or not has_end))


def image_names(content: str) -> dict[int, str]:
    """Image ID → full image name in the content of an images.txt; COLMAP ends names at a space."""
    rows = [_image_fields(line) for _, line, form in _records("images", content.split("\n")) if form is _IMAGE]
    return {int(row[0]): row[-1].strip() for row in rows}


def _damage(path: Path, what: str, advice: str = "") -> LumenError:
    return LumenError(f"{path} is truncated or damaged: {what}: copy the model again{advice}")


def _count_in_header(lines: list[str]) -> int | None:
    found = next((match for line in lines if line.startswith("#") and (match := _COUNT.match(line))), None)
    return None if found is None else int(found[1])


def _are_numbers(tokens: list[str]) -> bool:
    try:
        return all(map(math.isfinite, map(float, tokens)))
    except ValueError:
        return False


def _is_rotation(tokens: list[str]) -> bool:
    return any(float(token) for token in tokens)


def _are_counts(tokens: list[str]) -> bool:
    return all(map(str.isdigit, tokens))


def _is_camera(line: str) -> bool:
    number, *rest = line.split()
    if len(rest) < 3 or not _are_counts([number, *rest[1:3]]) or not _are_numbers(rest[3:]):
        return False
    try:
        camera = pycolmap.Camera.create_from_model_name(1, rest[0], 1.0, 2, 2)
    except (ValueError, RuntimeError):
        return False
    return len(rest) - 3 == len(camera.params)


def _image_fields(line: str) -> list[str]:
    return line.split(maxsplit=_IMAGE_FIELDS - 1)


def _is_image(line: str) -> bool:
    fields = _image_fields(line)
    if len(fields) < _IMAGE_FIELDS or not _are_counts([fields[0], fields[8]]) or "\ufffd" in fields[9]:
        return False
    return _are_numbers(fields[1:8]) and _is_rotation(fields[1:5])


def _are_points2d(line: str) -> bool:
    tokens = line.split()
    return (
        len(tokens) % 3 == 0 and _are_numbers(tokens) and all(each == "-1" or each.isdigit() for each in tokens[2::3])
    )


def _is_point(line: str) -> bool:
    tokens = line.split()
    if len(tokens) < _POINT_FIELDS or len(tokens) % 2 or not _are_numbers(tokens[:_POINT_FIELDS]):
        return False
    return _are_counts([tokens[0], *tokens[_POINT_FIELDS:]])


def _is_rig(line: str) -> bool:
    _, *tokens = line.split()
    if not tokens or not tokens[0].isdigit():
        return False
    at = 1 + 2 * min(1, int(tokens[0]))
    for _ in range(int(tokens[0]) - 1):
        has_pose = tokens[at + 2 : at + 3] == ["1"]
        at += 3 + 7 * has_pose
    return at == len(tokens)


def _is_frame(line: str) -> bool:
    tokens = line.split()
    if len(tokens) < 10 or not _are_numbers(tokens[:9]) or not tokens[9].isdigit():
        return False
    return len(tokens) == 10 + 3 * int(tokens[9]) and _is_rotation(tokens[2:6])


@dataclass(frozen=True)
class _Form:
    fields: str
    holds: Callable[[str], bool]


_IMAGE = _Form("IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", _is_image)
_POINTS2D = _Form("the points of the image above, X Y POINT3D_ID of each, or empty", _are_points2d)
_FORMS = {
    "images": _IMAGE,
    "cameras": _Form("CAMERA_ID MODEL WIDTH HEIGHT PARAMS of a known model", _is_camera),
    "points3D": _Form("POINT3D_ID X Y Z R G B ERROR and a track of pairs", _is_point),
    "rigs": _Form("a rig and its sensors", _is_rig),
    "frames": _Form("a frame, its pose and its images", _is_frame),
}


def _records(stem: str, lines: list[str]) -> list[tuple[int, str, _Form]]:
    """Lines with data: line number from 1, content and expected form.

    Empty lines and comments are skipped, except the line of points that follows each image in images.txt.
    """
    form = _FORMS[stem]
    found: list[tuple[int, str, _Form]] = []
    is_points = False
    for number, line in enumerate(lines, start=1):
        if is_points or (line.strip() and not line.startswith("#")):
            found.append((number, line, _POINTS2D if is_points else form))
            is_points = form is _IMAGE and not is_points
    return found


def _check_last_name(path: Path, records: list[tuple[int, str, _Form]]) -> None:
    """Check that the last word of the file, the name of the last image, is not truncated."""
    *others, last = [Path(line.strip()).suffix.lower() for _, line, form in records if form is _IMAGE]
    if last not in others and last not in _SUFFIXES:
        raise _damage(path, "its last line is incomplete")
