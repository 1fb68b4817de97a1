"""Choice of the initial image pair: two views of a smooth surface have two solutions, and only one is correct.

When the camera moves little, translating past a bulge looks nearly the same as rotating in front of a hollow (the
reversal and bas-relief ambiguities of small motion; Oliensis, Int. J. Computer Vision 61(3), 2005). Mapping that starts
from the wrong solution keeps it: all poses are wrong consistently, and bundle adjustment cannot correct them. Further
views agree with it less well, though. So a few pairs are mapped together with the keyframes around them, and the one
whose model explains the largest share of the observations is taken. Windows are placed only where the camera moves;
they cover the whole video, because any part of it may be the only one that can be mapped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Ints
from pipeline.data.tracks import Tracks
from pipeline.progress import progress
from sfm.mapping.incremental import frame_names, map_images
from sfm.mapping.track_model import TrackModel, model_from_keyframes, refine
from sfm.mapping.triangulation import Limits

WINDOW_KEYFRAMES = 12
MIN_KEYFRAMES = 3
# Smallest distance between windows of one run of keyframes.
_WINDOW_STEP = WINDOW_KEYFRAMES // 2
# Stop after this many windows with a model.
_WINDOWS_WITH_START = 3
# Initial pairs, relative to the middle of the window; None leaves the choice to COLMAP.
_PAIRS: tuple[tuple[int, int] | None, ...] = ((0, 2), (0, 4), (-3, 3), None)
# On phantoms, correct starts explain 86 % and more, reversed ones 63 to 66 %.
_CLEARLY_CORRECT = 0.85
_MIN_REGISTERED_SHARE = 0.5
_ROUGH_FACTOR = 4.0
# Smallest number of observations of a point in the keyframes of a window.
_WINDOW_VIEWS = 3


@dataclass(frozen=True)
class Start:
    """An initial model.

    Attributes:
        window: keyframes that were mapped, rows of `tracks.frame_index`.
        database: database of these and further keyframes.
        model_folder: folder of the COLMAP model of some of these keyframes.
        model: the same model after bundle adjustment.
        explained: share of the observations in these keyframes that agree with the model, 0..1.
    """

    window: Ints
    database: Path
    model_folder: Path
    model: TrackModel
    explained: float


def too_few_keyframes(keyframes: Ints) -> str:
    """The reason why fewer than `MIN_KEYFRAMES` keyframes give no reconstruction."""
    return (
        f"the video has only {len(keyframes)} keyframes, because its images hardly change: the camera has to "
        "translate, not only rotate"
    )


def windows_in(runs: Sequence[range]) -> list[range]:
    """Place windows of at most `WINDOW_KEYFRAMES` keyframes in runs of keyframes.

    Windows cover each run and overlap by half or more. The middle of every run comes first, starting with the longest
    run, then the quarters, the eighths, and so on.

    Args:
        runs: runs of consecutive keyframe positions, the longest first; runs shorter than `MIN_KEYFRAMES` get no
            window.
    """
    levels: dict[int, list[range]] = {}
    for run in runs:
        if len(run) >= MIN_KEYFRAMES:
            for level, window in _windows_of_run(run):
                levels.setdefault(level, []).append(window)
    return [window for level in sorted(levels) for window in levels[level]]


def _windows_of_run(run: range) -> Iterator[tuple[int, range]]:
    """Windows of a run, each with its level of subdivision."""
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
    windows: Sequence[Ints],
    database: Path,
    limits: Limits,
    log: Path,
    seed: int,
    *,
    refine_camera: bool = False,
) -> Start | None:
    """Map windows of keyframes from several initial pairs, and choose the model that explains the most observations.

    Args:
        tracks: tracks of the whole video.
        windows: windows of keyframes, rows of `tracks.frame_index`, in the order in which to try them.
        database: database of the keyframes (`sfm.mapping.incremental.write_keyframes`); models are written next to it.
        limits: acceptance limits of points.
        log: file to which pycolmap's log is appended.
        seed: random seed.
        refine_camera: refine the camera with each model.

    Returns:
        The best initial model, or None if no pair gives one.
    """
    some = replace(limits, views=_WINDOW_VIEWS)
    best: Start | None = None
    found = 0
    for number, window in enumerate(progress(windows, "initializing", unit="window")):
        place = database.with_name(f"start_{number}")
        start = _best_in_window(tracks, window, database, place, some, log, seed, refine_camera=refine_camera)
        found += start is not None
        if start is not None and (best is None or start.explained > best.explained):
            best = start
        if best is not None and (best.explained > _CLEARLY_CORRECT or found == _WINDOWS_WITH_START):
            break
    return best


def _best_in_window(
    tracks: Tracks,
    window: Ints,
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
        mapped = map_images(database, names, place, log, seed, pair=chosen)
        if mapped is None:
            continue
        scored = _score(mapped, tracks, window, limits, log, refine_camera=refine_camera)
        if scored is not None and (best is None or scored[1] > best.explained):
            best = Start(window, database, mapped, *scored)
        if best is not None and best.explained > _CLEARLY_CORRECT:
            break
    return best


def _pairs(window: Ints) -> Iterator[tuple[int, int] | None]:
    """Initial pairs, as positions in a window."""
    middle = len(window) // 2
    for pair in _PAIRS:
        if pair is None:
            yield None
        elif middle + pair[0] >= 0 and middle + pair[1] < len(window):
            yield middle + pair[0], middle + pair[1]


def _score(
    mapped: Path, tracks: Tracks, window: Ints, limits: Limits, log: Path, *, refine_camera: bool
) -> tuple[TrackModel, float] | None:
    """The model after bundle adjustment and the share of observations it explains; None with too few keyframes."""
    found = pycolmap.Reconstruction(mapped)
    if found.num_reg_images() < max(limits.views, _MIN_REGISTERED_SHARE * len(window)):
        return None
    nearby = tracks.select(np.isin(tracks.frame, window)).at_least(limits.views)
    rows = dict(zip(frame_names(tracks, window), window.tolist(), strict=True))
    wide = replace(limits, error_px=_ROUGH_FACTOR * limits.error_px)
    model = model_from_keyframes(found, rows, nearby, wide)
    for limit in (wide, limits, limits):
        model = refine(model, nearby, limit, log, refine_camera=refine_camera)
    return model, float(model.used.sum() / max(1, len(nearby.frame)))
