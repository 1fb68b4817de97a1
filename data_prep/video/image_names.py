"""Words and numbers in image names, and natural order."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

# A minus sign counts at the start of a name or after a gap; elsewhere, "-" is a separator. A point between two
# numbers is decimal unless there are several, as in dates and identifiers.
_TOKEN = re.compile(
    r"(?P<decimal>(?P<sign>(?<![^_\s=])-)?(?<!\d)(?<!\d[.,])(?P<whole>\d+)[.,](?P<fraction>\d+)(?![.,]?\d))"
    r"|(?:(?P<minus>(?<![^_\s=])-)?(?P<digits>\d+))"
    r"|(?P<word>[^\W\d_]+)"
)
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_HEXADECIMAL = re.compile(r"[0-9a-f]{4,}")
_UNITS = {"s": "s", "sec": "s", "ms": "ms", "msec": "ms", "us": "us", "usec": "us", "ns": "ns", "nsec": "ns"}
CAMERAS = ("cam", "camera", "channel", "ch", "eye", "sensor")


@dataclass(frozen=True)
class Number:
    """A number in a name.

    Attributes:
        whole: its digits before the decimal point, with leading zeros.
        fraction: its digits after the decimal point; empty for an integer.
        negative: whether there is a minus sign.
        unit: "s", "ms", "us" or "ns" if the number is directly followed by it, otherwise empty.
    """

    whole: str
    fraction: str = ""
    negative: bool = False
    unit: str = ""

    @cached_property
    def value(self) -> Decimal:
        return Decimal(f"{'-' if self.negative else ''}{self.whole}.{self.fraction}")

    @property
    def identity(self) -> tuple[int, str]:
        """Equal for equal numbers regardless of leading zeros; 1.1 and 1.10 differ, as in versions."""
        whole = int(self.whole)
        return -whole if self.negative else whole, self.fraction


@dataclass(frozen=True)
class ImageName:
    """The parsed name of an image.

    Attributes:
        path: the image.
        tokens: lower-case words and numbers in the order of the name, including folder names if the images are in
            several folders.
    """

    path: Path
    tokens: tuple[str | Number, ...]

    @cached_property
    def words(self) -> tuple[str, ...]:
        return tuple(token for token in self.tokens if isinstance(token, str))

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        return tuple(token for token in self.tokens if isinstance(token, Number))

    @cached_property
    def natural_key(self) -> tuple[tuple[object, ...], ...]:
        """Sort key: numbers by value and words alphabetically, ignoring separators."""
        keys: list[tuple[object, ...]] = [
            (0, token) if isinstance(token, str) else (1, token.value) for token in self.tokens
        ]
        return (*keys, (-1, str(self.path)))


def read_names(paths: Sequence[Path]) -> list[ImageName]:
    """Parse the names of images; their order is kept.

    Names that are hexadecimal numbers of equal length become a single word.
    """
    if not paths:
        return []
    parents = {path.parent for path in paths}
    top = os.path.commonpath(parents)
    folders = {parent: Path(os.path.relpath(parent, top)).parts for parent in parents}
    parts = [(*folders[path.parent], path.stem) for path in paths]
    if _are_hexadecimal([path.stem.lower() for path in paths]):
        return [ImageName(path, (*map(str.lower, names),)) for path, names in zip(paths, parts, strict=True)]
    tokens = [[token for name in names for token in read_tokens(name)] for names in parts]
    has_signs = not all(any(isinstance(t, Number) and t.negative for t in found) for found in tokens)
    return [
        ImageName(path, tuple(_without_camera_numbers(found if has_signs else _unsigned(found))))
        for path, found in zip(paths, tokens, strict=True)
    ]


def read_tokens(name: str) -> list[str | Number]:
    """The lower-case words and the numbers of a name; camelCase is two words."""
    tokens: list[str | Number] = []
    text = _CAMEL_CASE.sub("_", name)
    for match in _TOKEN.finditer(text):
        if match["word"]:
            tokens.append(match["word"].lower())
            continue
        following = _TOKEN.match(text, match.end())
        unit = _UNITS.get(following["word"].lower(), "") if following and following["word"] else ""
        whole = match["whole"] or match["digits"]
        tokens.append(Number(whole, match["fraction"] or "", bool(match["sign"] or match["minus"]), unit))
    return tokens


def natural_order(paths: Sequence[Path]) -> list[Path]:
    """Sort by name, comparing numbers by value: `frame9` comes before `frame10`."""
    return [name.path for name in sorted(read_names(paths), key=lambda name: name.natural_key)]


def _are_hexadecimal(stems: Sequence[str]) -> bool:
    """Whether the names are hashes or hexadecimal numbers; a few series such as a001 and b001 are not."""
    if len({len(stem) for stem in stems}) > 1 or not all(map(_HEXADECIMAL.fullmatch, stems)):
        return False
    return len({re.sub(r"\d+", " ", stem) for stem in stems}) > len("abcdef")


def _unsigned(tokens: Sequence[str | Number]) -> list[str | Number]:
    """Treat a minus sign that every name has as a separator."""
    return [Number(t.whole, t.fraction, unit=t.unit) if isinstance(t, Number) else t for t in tokens]


def _without_camera_numbers(tokens: Sequence[str | Number]) -> list[str | Number]:
    """Merge `cam`, 0 into the word `cam0` if there is another number; otherwise the number counts frames."""
    result: list[str | Number] = []
    left = sum(isinstance(token, Number) for token in tokens)
    for token in tokens:
        before = result[-1] if result else None
        is_short = isinstance(token, Number) and len(token.whole) <= 2 and not token.fraction
        if isinstance(token, Number) and is_short and left > 1 and before in CAMERAS:
            result[-1] = f"{before}{int(token.whole)}"
            left -= 1
        else:
            result.append(token)
    return result
