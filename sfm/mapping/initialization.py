"""Beginning at the right place: two views of a smooth wall have two solutions, and only one of them is true.

When the camera moves little, sliding sideways past a bulge looks nearly the same as turning in front of a hollow (the
reversal and bas-relief ambiguities of small motion; Oliensis, Int. J. Computer Vision 61(3), 2005). Mapping that begins
with the wrong one goes on with it, every pose is wrong alike, and adjusting cannot bring it back. But more views do not
agree with it as well. So a few pairs are tried with the keyframes around them, and the one whose model explains the
largest share of the observations is taken. Windows are placed only where the camera moves; they cover all of the video,
because any part of it may be the only one that can be mapped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.data.tracks import Integers, Tracks
from pipeline.progress import progress
from sfm.mapping.incremental import frame_names, map_images
from sfm.mapping.track_model import TrackModel, model_from_keyframes, refine
from sfm.mapping.triangulation import Limits

WINDOW_KEYFRAMES = 12
MIN_KEYFRAMES = 3
# Windows of one run of keyframes are no nearer to each other than this.
_WINDOW_STEP = WINDOW_KEYFRAMES // 2
# Stop after this many windows that gave a model.
_WINDOWS_WITH_START = 3
# Two places around the middle of the window; None leaves the choice to COLMAP.
_PAIRS: tuple[tuple[int, int] | None, ...] = ((0, 2), (0, 4), (-3, 3), None)
# True starts explained 86 % and more on phantoms, reversed ones 63 to 66 %.
_CLEARLY_TRUE = 0.85
_MIN_REGISTERED_SHARE = 0.5
_ROUGH_FACTOR = 4.0
# Fewest keyframes of a window in which a point is observed.
_WINDOW_VIEWS = 3


@dataclass(frozen=True)
class Start:
    """A way to begin.

    Attributes:
        window: the keyframes that were tried, rows of the tracks' `frame_index`.
        database: of these and further keyframes.
        begun: COLMAP's model of some of the window's keyframes.
        model: the same, adjusted.
        explained: share of the observations in these keyframes that the model agrees with, 0..1.
    """

    window: Integers
    database: Path
    begun: Path
    model: TrackModel
    explained: float


def too_few_keyframes(keyframes: Integers) -> str:
    """Say why fewer keyframes than `MIN_KEYFRAMES` give no reconstruction."""
    return (
        f"the image changes so little that there are only {len(keyframes)} keyframes: the camera has to move, and not "
        "only turn"
    )


def windows_in(runs: Sequence[range]) -> list[range]:
    """Place windows of at most `WINDOW_KEYFRAMES` keyframes in runs of keyframes.

    Windows cover each run and overlap by half or more. The list takes the middle of every run first, the longest run
    before the others, then the quarters, the eighths, and so on.

    Args:
        runs: consecutive keyframes by their places, the longest run first; shorter ones than `MIN_KEYFRAMES` give no
            window.
    """
    levels: dict[int, list[range]] = {}
    for run in runs:
        if len(run) >= MIN_KEYFRAMES:
            for level, window in _windows_of_run(run):
                levels.setdefault(level, []).append(window)
    return [window for level in sorted(levels) for window in levels[level]]


def _windows_of_run(run: range) -> Iterator[tuple[int, range]]:
    """Windows with the level of subdivision that they belong to."""
    seen = set()
    level = 0
    while level == 0 or len(run) / 2**level >= _WINDOW_STEP:
        for part in range(2**level):
            middle = (part + 0.5) / 2**level * len(run)
            first = max(0, min(round(middle - WINDOW_KEYFRAMES / 2), len(run) - WINDOW_KEYFRAMES))
            if first not in seen:
                seen.add(first)
                yield level, run[first : first + WINDOW_KEYFRAMES]
        level += 1


def choose_start(
    tracks: Tracks,
    windows: Sequence[Integers],
    database: Path,
    limits: Limits,
    log: Path,
    seed: int,
    *,
    refine_camera: bool = False,
) -> Start | None:
    """Try a few pairs of keyframes and take the one whose surroundings fit best.

    Args:
        tracks: of the whole video.
        windows: keyframes to start with, rows of `tracks.frame_index`, in the order in which to try them.
        database: of the keyframes (`sfm.mapping.incremental.write_keyframes`); the models are written beside it.
        limits: of points.
        log: file to which pycolmap's log is appended.
        seed: of the random choices.
        refine_camera: adjust the camera with each model.

    Returns:
        The best start, or None if no pair gives a model.
    """
    some = replace(limits, views=_WINDOW_VIEWS)
    best: Start | None = None
    found = 0
    for number, window in enumerate(progress(windows, "trying starts", unit="window")):
        place = database.with_name(f"start_{number}")
        start = _best_in_window(tracks, window, database, place, some, log, seed, refine_camera=refine_camera)
        found += start is not None
        if start is not None and (best is None or start.explained > best.explained):
            best = start
        if best is not None and (best.explained > _CLEARLY_TRUE or found == _WINDOWS_WITH_START):
            break
    return best


def _best_in_window(
    tracks: Tracks,
    window: Integers,
    database: Path,
    folder: Path,
    limits: Limits,
    log: Path,
    seed: int,
    *,
    refine_camera: bool,
) -> Start | None:
    best: Start | None = None
    names = frame_names(tracks, window)
    for pair in _pairs(window):
        place = folder if pair is None else folder.with_name(f"{folder.name}_{pair[0]}_{pair[1]}")
        chosen = None if pair is None else (names[pair[0]], names[pair[1]])
        begun = map_images(database, names, place, log, seed, pair=chosen)
        if begun is None:
            continue
        judged = _judge(begun, tracks, window, limits, log, refine_camera=refine_camera)
        if judged is not None and (best is None or judged[1] > best.explained):
            best = Start(window, database, begun, *judged)
        if best is not None and best.explained > _CLEARLY_TRUE:
            break
    return best


def _pairs(window: Integers) -> Iterator[tuple[int, int] | None]:
    """The pairs of places in a window to start with."""
    middle = len(window) // 2
    for pair in _PAIRS:
        if pair is None:
            yield None
        elif middle + pair[0] >= 0 and middle + pair[1] < len(window):
            yield middle + pair[0], middle + pair[1]


def _judge(
    begun: Path, tracks: Tracks, window: Integers, limits: Limits, log: Path, *, refine_camera: bool
) -> tuple[TrackModel, float] | None:
    """The model, adjusted, and the share of the observations that it explains; None if it has too few keyframes."""
    found = pycolmap.Reconstruction(begun)
    if found.num_reg_images() < max(limits.views, _MIN_REGISTERED_SHARE * len(window)):
        return None
    nearby = tracks.select(np.isin(tracks.frame, window)).at_least(limits.views)
    rows = dict(zip(frame_names(tracks, window), window.tolist(), strict=True))
    wide = replace(limits, error_px=_ROUGH_FACTOR * limits.error_px)
    model = model_from_keyframes(found, rows, nearby, wide)
    for limit in (wide, limits, limits):
        model = refine(model, nearby, limit, log, refine_camera=refine_camera)
    return model, float(model.used.sum() / max(1, len(nearby.frame)))
