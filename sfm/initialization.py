"""Beginning at the right place: two views of a smooth wall have two solutions, and only one of them is true.

When the camera moves little, sliding sideways past a bulge looks nearly the same as turning in front of a hollow (the
reversal and bas-relief ambiguities of small motion; Oliensis, Int. J. Computer Vision 61(3), 2005). Mapping that begins
with the wrong one goes on with it, every pose is wrong alike, and adjusting cannot bring it back. But more views do not
agree with it as well. So a few pairs are tried with the keyframes around them, and the one whose model explains the
largest share of the observations is taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.progress import progress
from pipeline.tracks import Integers, Tracks
from sfm.mapping import frame_names, map_images
from sfm.track_model import TrackModel, model_from_keyframes, refine
from sfm.triangulation import Limits

WINDOW_KEYFRAMES = 12
MIN_KEYFRAMES = 3
# Where in the video, and which two places around the middle of the window; None leaves the choice to COLMAP.
_WINDOW_MIDDLES = (0.5, 0.25, 0.75)
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
        begun: COLMAP's model of some of the keyframes.
        model: the same, adjusted.
        explained: share of the observations in these keyframes that the model agrees with, 0..1.
    """

    begun: Path
    model: TrackModel
    explained: float


def too_few_keyframes(keyframes: Integers) -> str:
    """Say why fewer keyframes than `MIN_KEYFRAMES` give no reconstruction."""
    return (
        f"the image changes so little that there are only {len(keyframes)} keyframes: the camera has to move, and not "
        "only turn"
    )


def choose_start(
    tracks: Tracks,
    keyframes: Integers,
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
        keyframes: (K,) rows of `tracks.frame_index`.
        database: of the keyframes (`sfm.mapping.write_keyframes`); the models are written beside it.
        limits: of points.
        log: file to which pycolmap's log is appended.
        seed: of the random choices.
        refine_camera: adjust the camera with each model.

    Returns:
        The best start, or None if no pair gives a model.
    """
    some = replace(limits, views=_WINDOW_VIEWS)
    best: Start | None = None
    candidates = list(_candidates(keyframes))
    for number, (window, pair) in enumerate(progress(candidates, "trying starts", unit="start")):
        names = frame_names(tracks, window)
        place = database.with_name(f"start_{number}")
        begun = map_images(
            database, names, place, log, seed, pair=None if pair is None else (names[pair[0]], names[pair[1]])
        )
        if begun is None:
            continue
        start = _judge(begun, tracks, window, some, log, refine_camera=refine_camera)
        if start is not None and (best is None or start.explained > best.explained):
            best = start
        if best is not None and best.explained > _CLEARLY_TRUE:
            break
    return best


def _candidates(keyframes: Integers) -> Iterator[tuple[Integers, tuple[int, int] | None]]:
    """Windows of keyframes, each with every pair of places in it."""
    seen = set()
    for share in _WINDOW_MIDDLES:
        first = round(share * len(keyframes) - WINDOW_KEYFRAMES / 2)
        first = max(0, min(first, len(keyframes) - WINDOW_KEYFRAMES))
        if first in seen:
            continue
        seen.add(first)
        window = keyframes[first : first + WINDOW_KEYFRAMES]
        middle = len(window) // 2
        for pair in _PAIRS:
            if pair is None:
                yield window, None
            elif middle + pair[0] >= 0 and middle + pair[1] < len(window):
                yield window, (middle + pair[0], middle + pair[1])


def _judge(
    begun: Path, tracks: Tracks, window: Integers, limits: Limits, log: Path, *, refine_camera: bool
) -> Start | None:
    found = pycolmap.Reconstruction(begun)
    if found.num_reg_images() < max(limits.views, _MIN_REGISTERED_SHARE * len(window)):
        return None
    nearby = tracks.select(np.isin(tracks.frame, window)).at_least(limits.views)
    rows = dict(zip(frame_names(tracks, window), window.tolist(), strict=True))
    wide = replace(limits, error_px=_ROUGH_FACTOR * limits.error_px)
    model = model_from_keyframes(found, rows, nearby, wide)
    for limit in (wide, limits, limits):
        model = refine(model, nearby, limit, log, refine_camera=refine_camera)
    return Start(begun, model, float(model.used.sum() / max(1, len(nearby.frame))))
