"""Group the images of a folder into kinds by their names (colour, depth, left, right ...) and choose one kind."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.video.image_names import CAMERAS, ImageName, Number, read_tokens
from pipeline.errors import LumenError

# Whole words, and prefixes of words such as depthmap.
_MEASUREMENTS = {
    *("disp", "normal", "flow", "gt", "groundtruth", "truth", "semantic", "instance", "confidence", "conf"),
    *("seg", "segm", "segmentation", "segmentations"),
    *("uncertainty", "albedo", "edge", "edges", "preview", "overlay", "heatmap", "error", "diff", "xyz", "pointmap"),
    *("annotation", "annotations", "contour", "contours"),
}
_MEASUREMENT_BEGINNINGS = ("depth", "mask", "disparit", "normals", "occlu", "opticalflow", "label", "thumb")
_COLORS = {"color", "colour", "rgb", "bgr"}
_FRAMES = {"frame", "frames", "image", "images", "img", "imgs"}
_SIDES = {"left", "right"}
# Larger numbers are timestamps, not frame numbers; those of two kinds may differ slightly.
_SMALLEST_STAMP = 10**8
# Images whose names have no distinguishing word.
_PLAIN = "plain"
# Words that the report may repeat besides measurements; other words may be patient names.
_SAFE_WORDS = re.compile(rf"{'|'.join(_COLORS | _FRAMES | _SIDES)}|l|r|(?:{'|'.join(CAMERAS)})?\d+|bmp|jpe?g|png|tiff?")
_MAX_NAMED = 6

_Kinds = Mapping[str, Sequence[ImageName]]


def choose_kind(path: Path, names: Sequence[ImageName], wanted: str | None) -> tuple[list[ImageName], tuple[str, ...]]:
    """Choose the images of the kind that shows frames.

    Images belong to different kinds if their names differ in a telling word, or if their numbers are equal.

    Args:
        path: the folder or pattern, for messages.
        names: all images.
        wanted: the kind requested by the user, or None to choose one.

    Returns:
        The images, and one line about the choice if there was one; it repeats only known words of the names.

    Raises:
        LumenError: if the kind does not exist, the choice is ambiguous, or two images have equal words and numbers.
    """
    kinds = _kinds(names)
    found = _frames(kinds) if wanted is None else _matching(kinds, wanted)
    _refuse_unless_clear(path, kinds, found, wanted)
    chosen = [name for members in found.values() for name in members]
    _refuse_equal_numbers(path, chosen)
    others = {kind: members for kind, members in kinds.items() if kind not in found}
    line = f"kinds of images: using {_counted(found)}, ignoring {_counted(others)} (--image_kind)"
    return chosen, (line,) if others else ()


def _refuse_unless_clear(path: Path, kinds: _Kinds, found: _Kinds, wanted: str | None) -> None:
    if not found and wanted is not None:
        raise LumenError(f"{path} holds no kind of images called {wanted}; --image_kind can be {_listed(kinds)}")
    if not found:
        raise LumenError(
            f"{path}: by their names, the images are {_listed(kinds)}, not video frames; to use them anyway, name a "
            "kind with --image_kind"
        )
    if _exclude_each_other(found):
        raise LumenError(
            f"{path} holds several kinds of images: {_listed(found)}; choose one, for example --image_kind "
            f"{next(iter(found))}"
        )


def _kinds(names: Sequence[ImageName]) -> _Kinds:
    """Group images by the words that not all names share."""
    by_words: dict[tuple[str, ...], list[ImageName]] = defaultdict(list)
    for name in names:
        by_words[name.words].append(name)
    groups = [(words, extra, part) for words, group in by_words.items() for extra, part in _split(group)]
    common = set.intersection(*(set(words) for words in by_words))
    kinds: dict[str, list[ImageName]] = defaultdict(list)
    for words, extra, part in groups:
        own = [word for word in words if word not in common]
        # A folder that holds only masks must be detected.
        own = own or ([word for word in words if _is_measurement(word)] if len(by_words) == 1 else [])
        kinds["_".join([*own, *extra]) or _PLAIN] += part
    return dict(sorted(kinds.items()))


def _split(group: Sequence[ImageName]) -> list[tuple[tuple[str, ...], Sequence[ImageName]]]:
    """Split images with equal words by suffix, if that makes numbers unique, or by a last number with 2 values."""
    parts: dict[str, list[ImageName]] = defaultdict(list)
    for name in group:
        parts[name.path.suffix.lower().lstrip(".")].append(name)
    if len(parts) > 1 and not _are_distinct(group) and all(map(_are_distinct, parts.values())):
        return [((suffix,), part) for suffix, part in parts.items()]
    counts = {len(name.numbers) for name in group}
    if len(group) >= 4 and len(counts) == 1 and max(counts) >= 2:
        views: dict[tuple[int, str], list[ImageName]] = defaultdict(list)
        for name in group:
            views[name.numbers[-1].identity].append(name)
        frames = [{_identity(name.numbers[:-1]) for name in view} for view in views.values()]
        if sorted(views) in ([(0, ""), (1, "")], [(1, ""), (2, "")]) and frames[0] == frames[1]:
            return [((str(whole),), part) for (whole, _), part in views.items()]
    return [((), group)]


def _frames(kinds: _Kinds) -> _Kinds:
    """The kinds that can be frames; a single one if the choice is clear."""
    candidates = {kind: members for kind, members in kinds.items() if not any(map(_is_measurement, kind.split("_")))}
    for words in (_COLORS, _FRAMES):
        named = {kind: members for kind, members in candidates.items() if words.intersection(kind.split("_"))}
        if len(named) == 1 and (words is _COLORS or _exclude_each_other(candidates)):
            return named
    return candidates


def _matching(kinds: _Kinds, wanted: str) -> _Kinds:
    """The kind of that name, or the kinds with all of its words."""
    if wanted.lower() in kinds:
        return {wanted.lower(): kinds[wanted.lower()]}
    words = {token for token in read_tokens(wanted) if isinstance(token, str)}
    matching = {}
    for kind, members in kinds.items():
        known = {*kind.split("_"), *members[0].words, *(name.path.suffix.lower().lstrip(".") for name in members)}
        if words and words <= known:
            matching[kind] = members
    return matching


def _exclude_each_other(kinds: _Kinds) -> bool:
    """Whether a sequence can use at most one of the kinds."""
    if len(kinds) < 2:
        return False
    if any(_SIDES.intersection(kind.split("_")) for kind in kinds):
        return True
    count = sum(map(len, kinds.values()))
    # Words that are unique to nearly every image are identifiers.
    if len(kinds) > max(2, count // 2):
        return False
    by_kind = [_varying_numbers(members) for members in kinds.values()]
    numbers = [number for own in by_kind for number in own if number]
    return len(set(numbers)) < len(numbers) or _have_parallel_timestamps(by_kind)


def _have_parallel_timestamps(by_kind: Sequence[set[tuple[tuple[int, str], ...]]]) -> bool:
    """Whether several kinds have timestamps, in nanoseconds or decimals, with overlapping ranges."""
    ranges = []
    for own in by_kind:
        columns = list(zip(*own, strict=True)) if len(set(map(len, own))) == 1 else []
        stamps = [each for each in columns if max(each)[0] >= _SMALLEST_STAMP or any(part for _, part in each)]
        ranges += [(min(each), max(each)) for each in stamps[:1] if len(own) > 1]
    ranges.sort()
    return any(later[0] < earlier[1] for earlier, later in zip(ranges, ranges[1:], strict=False))


def _varying_numbers(members: Sequence[ImageName]) -> set[tuple[tuple[int, str], ...]]:
    """The numbers of each image that vary within its kind; all numbers of a single image."""
    rows = [_identity(name.numbers) for name in members]
    if len({len(row) for row in rows}) == 1 and len(rows) > 1:
        varying = [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
        return set(zip(*varying, strict=True))
    return set(rows)


def _identity(numbers: Iterable[Number]) -> tuple[tuple[int, str], ...]:
    return tuple(number.identity for number in numbers)


def _are_distinct(names: Sequence[ImageName]) -> bool:
    return len({_identity(name.numbers) for name in names}) == len(names)


def _refuse_equal_numbers(path: Path, names: Sequence[ImageName]) -> None:
    seen: dict[object, ImageName] = {}
    for name in names:
        key = (name.words, _identity(name.numbers))
        if key in seen:
            raise LumenError(
                f"{path}: {seen[key].path.name} and {name.path.name} have equal words and numbers in their names: "
                "give a quoted glob that matches one of them"
            )
        seen[key] = name


def _is_measurement(word: str) -> bool:
    return word in _MEASUREMENTS or word.startswith(_MEASUREMENT_BEGINNINGS)


def _listed(kinds: _Kinds) -> str:
    """The kinds for an error message, which only the user reads."""
    listed = [f"{kind if len(kind) <= 30 else kind[:29] + '…'} ({len(members)})" for kind, members in kinds.items()]
    more = [f"{len(listed) - _MAX_NAMED} more"] if len(listed) > _MAX_NAMED else []
    return ", ".join([*listed[:_MAX_NAMED], *more])


def _counted(kinds: _Kinds) -> str:
    """The kinds for the report, which others may read."""
    counts: dict[str, int] = defaultdict(int)
    for kind, members in kinds.items():
        words = [word for word in kind.split("_") if _is_measurement(word) or _SAFE_WORDS.fullmatch(word)]
        counts["_".join(words) or (_PLAIN if kind == _PLAIN else "other")] += len(members)
    return ", ".join(f"{kind} ({count})" for kind, count in counts.items())
