"""Order of images, their frame indices and their timestamps, from the numbers in their names."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Literal

from data_prep.video.image_names import ImageName, Number
from pipeline.errors import LumenError

NumberMeaning = Literal["auto", "frames", "s", "ms", "us", "ns"]

# Frame images are named with eight digits.
_END_OF_INDICES = 10**8
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Epoch seconds from 2001 (ten digits) to 2099.
_FIRST_EPOCH_S, _END_OF_EPOCH_S = 10**9, 41 * 10**8
_SHORTEST_STEP_S, _LONGEST_STEP_S, _LONGEST_DATED_STEP_S = Decimal("0.00001"), 5, 600
# Numbers that increase by one are not timestamps in a unit shorter than this.
_SHORTEST_COUNTED_S = Decimal("0.005")
# Frame numbers rarely increase by this much; timestamps in small units do.
_SMALLEST_TIME_STEP = 1000
_REGULAR = Decimal("0.2")
# At these rates frame times are not whole milliseconds, so rounded times differ from every n-th frame number.
_RATES = [12, 15, 24, 30, 48, 60, 120] + [rate / 1.001 for rate in (24, 30, 60, 120)]
_MIN_ROUNDED = 5

_DATE = re.compile(
    r"(?:^|_)((?:19|20)\d\d)_?(\d\d)_?(\d\d)_?(\d\d)_?(\d\d)_?(\d\d)(?:_(\d{1,9})|(\d{3}(?:\d{3})?))?(?=_|$)"
)
_CLOCK = re.compile(r"(?:^|_)(\d\d?)_([0-5]\d)_([0-5]\d)_(\d{3}(?:\d{3})?)(?=_|$)")


@dataclass(frozen=True)
class OrderedImages:
    """Images as the frames of a sequence.

    Attributes:
        paths: in order.
        indices: of the frames, ascending, from 0 to 99,999,999.
        timestamps_s: ascending.
        fps: frames per second; the median if the names hold timestamps.
        assumption: how the names were interpreted, in one line that repeats none of their words.
    """

    paths: tuple[Path, ...]
    indices: tuple[int, ...]
    timestamps_s: tuple[float, ...]
    fps: float
    assumption: str


@dataclass(frozen=True)
class _Times:
    """Seconds of each image; the column that holds them, if it is a single one; their description."""

    seconds: Sequence[Decimal]
    column: int | None
    description: str


def order_images(names: Sequence[ImageName], meaning: NumberMeaning, fps: float) -> OrderedImages:
    """Sort images naturally and read frame indices and timestamps from their names.

    If names hold timestamps, indices count from 0 unless there are frame numbers as well. Dates, and times too large
    for any clock, become seconds since the first image; other times are kept.

    Args:
        names: images of one kind, at least one.
        meaning: meaning of the numbers; "auto" distinguishes timestamps from frame numbers by magnitude and steps.
        fps: frames per second if names hold no timestamps.

    Raises:
        LumenError: if no number fits the requested meaning.
    """
    ordered, times = _read(names, meaning)
    columns = _columns(ordered)
    paths = tuple(name.path for name in ordered)
    if meaning in _PER_SECOND and times is None:
        raise LumenError(f"--image_numbers {meaning}: no number in the image names increases like timestamps")
    if times is None or meaning == "frames":
        indices, how = _indices(columns, len(paths), any_step=meaning == "frames")
        rate = f"timestamps assume {fps:g} frames per second (--image_fps)"
        return OrderedImages(paths, indices, tuple(index / fps for index in indices), fps, f"{how}; {rate}")
    rate_hz = float(1 / median(_steps(times.seconds)))
    return OrderedImages(
        paths,
        _indices_next_to_times(columns, times.column, len(paths)),
        tuple(map(float, times.seconds)),
        rate_hz,
        f"the numbers in the image names are read as {times.description}; about {rate_hz:.4g} frames per second "
        "(--image_numbers)",
    )


def _read(names: Sequence[ImageName], meaning: NumberMeaning) -> tuple[list[ImageName], _Times | None]:
    """The images in order, and their timestamps if there are any."""
    ordered = _in_order(names)
    times = _find_times(ordered, meaning)
    if times is None and any(number.fraction for name in names for number in name.numbers):
        # An apparent decimal is two numbers, as in scene.frame.
        ordered = _in_order([_without_fractions(name) for name in names])
        times = _find_times(ordered, meaning)
    return ordered, times


def _in_order(names: Sequence[ImageName]) -> list[ImageName]:
    """Sort by numbers if they identify every image; otherwise by words and numbers."""
    values = {name.path: tuple(number.value for number in name.numbers) for name in names}
    by_numbers = len(set(map(len, values.values()))) == 1 and len(set(values.values())) == len(names)
    return sorted(names, key=lambda name: (values[name.path] if by_numbers else (), name.natural_key))


def _without_fractions(name: ImageName) -> ImageName:
    tokens: list[str | Number] = []
    for token in name.tokens:
        if isinstance(token, Number) and token.fraction:
            tokens += [Number(token.whole, negative=token.negative), Number(token.fraction)]
        else:
            tokens.append(token)
    return replace(name, tokens=tuple(tokens))


def _columns(names: Sequence[ImageName]) -> list[tuple[Number, ...]]:
    """The numbers in each place of the names, one tuple per place; empty if names differ in how many they have."""
    if len({len(name.numbers) for name in names}) > 1:
        return []
    return list(zip(*(name.numbers for name in names), strict=True))


def _find_times(names: Sequence[ImageName], meaning: NumberMeaning) -> _Times | None:
    columns = _columns(names)
    if len(names) < 2 or not columns:
        return None
    if meaning not in _PER_SECOND:
        for found, longest_step_s in (
            (_dates(names), _LONGEST_DATED_STEP_S),
            (_clock_times(names), _LONGEST_DATED_STEP_S),
            (_seconds_and_parts(columns), _LONGEST_STEP_S),
        ):
            if found is not None and _is_plausible(found.seconds, longest_step_s):
                return found
    for place, column in enumerate(columns):
        values = [number.value for number in column]
        unit = (meaning if meaning in _PER_SECOND else _unit(column)) if _is_ascending(values) else None
        times = _column_of_times(place, values, unit) if unit is not None else None
        if times is not None and _is_ascending([Decimal(float(each)) for each in times.seconds]):
            return times
    return None


def _column_of_times(place: int, values: Sequence[Decimal], unit: str) -> _Times:
    """Times as they are; relative to the first if in microseconds or too large for a clock."""
    description, scale = f"times in {_UNIT_NAMES[unit]}", _PER_SECOND[unit]
    if values[-1] / scale < _END_OF_EPOCH_S:
        return _Times([value / scale for value in values], place, description)
    from_first = [(value - values[0]) / scale for value in values]
    return _Times(from_first, place, f"{description} since the first image")


def _dates(names: Sequence[ImageName]) -> _Times | None:
    """Seconds since the first date; the date itself may identify a patient."""
    dates: list[tuple[datetime, Decimal]] = []
    for name in names:
        match = _DATE.search(_digits(name))
        if match is None:
            return None
        fraction = match[7] or match[8] or ""
        try:
            date = datetime(*map(int, match.groups()[:6]))  # type: ignore[arg-type]
        except ValueError:
            return None
        dates.append((date, Decimal(fraction or 0).scaleb(-len(fraction))))
    first = dates[0][0]
    seconds = [round((date - first).total_seconds()) + part - dates[0][1] for date, part in dates]
    return _Times(seconds, None, "dates and times, relative to the first image")


def _clock_times(names: Sequence[ImageName]) -> _Times | None:
    """Hours, minutes, seconds and milliseconds, as in snapshots of video players."""
    matches = [_CLOCK.search(_digits(name)) for name in names]
    seconds = [
        int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3]) + Decimal(match[4]).scaleb(-len(match[4]))
        for match in matches
        if match is not None
    ]
    return _Times(seconds, None, "hours, minutes and seconds") if len(seconds) == len(names) else None


def _digits(name: ImageName) -> str:
    return "_".join(part for number in name.numbers for part in (number.whole, number.fraction) if part)


def _seconds_and_parts(columns: Sequence[tuple[Number, ...]]) -> _Times | None:
    """Epoch seconds followed by nanoseconds, microseconds or milliseconds of nine, six or three digits."""
    for whole, part in zip(columns, columns[1:], strict=False):
        lengths = {len(number.whole) for number in part}
        digits = max(lengths)
        is_padded = len(lengths) == 1 and digits in (3, 6, 9)
        if (is_padded or digits == 9) and all(_is_epoch(number.value) for number in whole):
            seconds = [first.value + second.value / 10**digits for first, second in zip(whole, part, strict=True)]
            return _Times(seconds, None, "seconds and fractions of a second")
    return None


def _unit(column: Sequence[Number]) -> str | None:
    """The unit of ascending numbers if they are timestamps."""
    named = {number.unit for number in column}
    if len(named) == 1 and named != {""}:
        return named.pop()
    values = [number.value for number in column]
    resolution = Decimal(1).scaleb(-max(len(number.fraction) for number in column))
    for unit in _candidates(values, resolution):
        scale = _PER_SECOND[unit]
        if _are_steps_of_frames([value / scale for value in values], resolution / scale, _LONGEST_STEP_S):
            return unit
    return None


def _candidates(values: Sequence[Decimal], resolution: Decimal) -> Iterator[str]:
    """Possible units, most likely first: the largest unit whose steps are not too long."""
    step = median(_steps(values))
    yield from (unit for unit, scale in _PER_SECOND.items() if all(_is_epoch(value / scale) for value in values))
    if resolution < 1:
        yield from ("s", "ms")
    elif step >= _SMALLEST_TIME_STEP and _is_regular(values, step):
        yield from ("ms", "us", "ns")
    elif _is_rounded_ms(values):
        yield "ms"


def _is_epoch(seconds: Decimal) -> bool:
    return _FIRST_EPOCH_S <= seconds < _END_OF_EPOCH_S


def _is_regular(values: Sequence[Decimal], step: Decimal) -> bool:
    """Whether most steps are about equal; random numbers have unequal steps."""
    near = [abs(each - step) <= _REGULAR * step for each in _steps(values)]
    return sum(near) >= 0.5 * len(near)


def _is_rounded_ms(values: Sequence[Decimal]) -> bool:
    """Whether integers are timestamps of a common frame rate in rounded milliseconds; frames may be missing."""
    if len(values) < _MIN_ROUNDED or len(set(_steps(values))) == 1:
        return False
    from_first = [float(value - values[0]) for value in values]
    for rate in _RATES:
        period_ms = 1000 / rate
        frames = [round(value / period_ms) for value in from_first]
        near = all(abs(value - frame * period_ms) <= 1 for value, frame in zip(from_first, frames, strict=True))
        steps = [later - earlier for earlier, later in zip(frames, frames[1:], strict=False)]
        if near and min(steps) >= 1 and median(steps) == 1:
            return True
    return False


def _indices(columns: Sequence[tuple[Number, ...]], count: int, *, any_step: bool) -> tuple[tuple[int, ...], str]:
    """Frame numbers from the names if they fit, and how they were found."""
    columns_of_values = [[number.value for number in column] for column in columns]
    ascending = [values for values in columns_of_values if _is_ascending(values)]
    # With one image every column is ascending; the last number is the most likely frame number.
    values = ascending[-1 if count == 1 else 0] if ascending else []
    is_count = any_step or count == 1 or (values and median(_steps(values)) < _SMALLEST_TIME_STEP)
    if values and is_count and all(map(_is_whole, values)):
        if values[0] >= 0 and values[-1] < _END_OF_INDICES:
            return tuple(map(int, values)), "the numbers in the image names are read as frame numbers"
        if values[-1] - values[0] < _END_OF_INDICES:
            from_first = tuple(int(value - values[0]) for value in values)
            return from_first, "the numbers in the image names are read as frame numbers, relative to the first image"
    return tuple(range(count)), "the image names hold no frame numbers: images count from 0 in the order of their names"


def _indices_next_to_times(columns: Sequence[tuple[Number, ...]], time: int | None, count: int) -> tuple[int, ...]:
    """Frame numbers next to timestamps in the names; from 0 if there are none."""
    for place, column in enumerate(columns):
        values = [number.value for number in column]
        fits = values[0] >= 0 and values[-1] < _END_OF_INDICES and all(map(_is_whole, values))
        if time is not None and place != time and fits and _is_ascending(values):
            return tuple(map(int, values))
    return tuple(range(count))


def _steps(values: Sequence[Decimal]) -> list[Decimal]:
    return [later - earlier for earlier, later in zip(values, values[1:], strict=False)]


def _is_ascending(values: Sequence[Decimal]) -> bool:
    return all(later > earlier for earlier, later in zip(values, values[1:], strict=False))


def _is_whole(value: Decimal) -> bool:
    return value == value.to_integral_value()


def _is_plausible(seconds: Sequence[Decimal], longest_step_s: int) -> bool:
    resolution_s = Decimal(1).scaleb(-_decimals(seconds))
    return _is_ascending(seconds) and _are_steps_of_frames(seconds, resolution_s, longest_step_s)


def _are_steps_of_frames(seconds: Sequence[Decimal], resolution_s: Decimal, longest_step_s: int) -> bool:
    """Whether times are spaced like frames; a last digit that increases by one usually counts frames."""
    step_s = median(_steps(seconds))
    counts = step_s == resolution_s and resolution_s < _SHORTEST_COUNTED_S
    return _SHORTEST_STEP_S <= step_s <= longest_step_s and not counts


def _decimals(seconds: Sequence[Decimal]) -> int:
    """The number of decimal places needed to write all of them."""
    return next(digits for digits in range(19) if all(_is_whole(value.scaleb(digits)) for value in seconds))
