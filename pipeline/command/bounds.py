"""Bounds of settings, stated in their types and checked when a config is created.

@dataclass(frozen=True)
class ExtractConfig(Settings):
    stride: Count = 1
    jpeg_quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 95
"""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from pipeline.errors import LumenError

Count = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
# From 0 to 1. `PositiveShare` excludes 0.
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PositiveShare = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Settings:
    """Base class of config dataclasses whose field types state bounds.

    A subclass that defines `__post_init__` calls this one first.
    """

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            LumenError: if a value is out of bounds; it names the flag, the value and the allowed range.
        """
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            for bound, each in _bounded(hint, value):
                if not _is_inside(each, bound):
                    raise LumenError(f"--{name} {_as_typed(value)}: choose {_in_words(bound)}")


@cache
def _hints(config_type: type) -> dict[str, Any]:
    hints = get_type_hints(config_type, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config_type)}


def _bounded(hint: Any, value: Any) -> Iterator[tuple[msgspec.Meta, Any]]:
    """Each bound in a type, with the part of the value that it applies to."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        yield from ((note, value) for note in notes if isinstance(note, msgspec.Meta))
        yield from _bounded(inner, value)
    elif get_origin(hint) in (tuple, list) and isinstance(value, tuple | list):
        parts = get_args(hint)
        repeated = get_origin(hint) is list or parts[-1] is Ellipsis
        for part, each in zip([parts[0]] * len(value) if repeated else parts, value, strict=False):
            yield from _bounded(part, each)
    elif value is not None:
        for alternative in get_args(hint):
            yield from _bounded(alternative, value)


def _is_inside(value: Any, bound: msgspec.Meta) -> bool:
    """Whether a number is within bounds. None and text always are."""
    if not isinstance(value, int | float):
        return True
    checks = (
        bound.ge is None or value >= bound.ge,
        bound.gt is None or value > bound.gt,
        bound.le is None or value <= bound.le,
        bound.lt is None or value < bound.lt,
    )
    return all(checks)


def _in_words(bound: msgspec.Meta) -> str:
    if bound.ge is not None and bound.le is not None:
        return f"from {bound.ge:g} to {bound.le:g}"
    if bound.gt is not None and bound.lt is not None:
        return f"between {bound.gt:g} and {bound.lt:g}"
    low = f"{bound.ge:g} or more" if bound.ge is not None else ""
    low = f"more than {bound.gt:g}" if bound.gt is not None else low
    high = f"at most {bound.le:g}" if bound.le is not None else ""
    high = f"less than {bound.lt:g}" if bound.lt is not None else high
    return ", ".join(filter(None, (low, high)))


def _as_typed(value: Any) -> str:
    """A value as the user types it on a command line."""
    if isinstance(value, tuple | list):
        return " ".join(map(_as_typed, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
