"""Where a video goes on showing the same view, and where it changes to another one within a frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.selection.frame_quality import DOUBTFUL_CONTINUITY, FrameQuality

Booleans = npt.NDArray[np.bool_]

# Flow between different places follows up to 0.25 of the pixels.
_LOST_CONTINUITY = 0.35
# Keypoints of different places agree on 6 places at most, of 1080p on 7, and rarely on 10. Where a camera moves so far
# between frames that flow follows no more than that, they agree on 13 or more.
_SHARED_PLACES = 10
# A neighbour that flow has lost as well speaks for a quick camera, so less evidence is needed; a step this short speaks
# against it, so more is needed.
_QUICK_FACTOR = 0.6
_SHORT_STEP_S = 0.1
_SHORT_STEP_FACTOR = 2.0


@dataclass(frozen=True)
class ViewChanges:
    """Where the view changes.

    Attributes:
        changed: (N,) frames that do not show the view of the last one before that was neither dark, white nor damaged.
        doubtful: (N,) those of them where the camera moves so quickly that it may still be the same view.
    """

    changed: Booleans
    doubtful: Booleans


def find_view_changes(qualities: Sequence[FrameQuality]) -> ViewChanges:
    """Find the changes by flow, and by keypoints where flow follows too little."""
    lost = np.array([quality.continuity < _LOST_CONTINUITY for quality in qualities])
    shared = np.array([quality.shared_places or 0 for quality in qualities])
    timestamps_s = np.array([quality.timestamp_s for quality in qualities])
    is_short = np.diff(timestamps_s, prepend=-np.inf) < _SHORT_STEP_S
    factor = np.where(_beside(lost), _QUICK_FACTOR, 1.0) * np.where(is_short, _SHORT_STEP_FACTOR, 1.0)
    changed = lost & (shared < factor * _SHARED_PLACES)
    return ViewChanges(changed, changed & _beside(lost & ~changed))


def _beside(chosen: Booleans) -> Booleans:
    """(N,): the frame before or after is chosen."""
    padded = np.pad(chosen, 1)
    return np.asarray(padded[:-2] | padded[2:])


def find_flashes(qualities: Sequence[FrameQuality], changed: Booleans) -> Booleans:
    """(N,): frames that fit neither the one before nor the one after, which fit each other."""
    flashes = np.zeros(len(qualities), bool)
    fits_before = np.array([_skips_one(following) for following in qualities[1:]], bool)
    flashes[:-1] = changed[:-1] & changed[1:] & fits_before
    return flashes


def find_steady_views(qualities: Sequence[FrameQuality], flashes: Booleans) -> Booleans:
    """(N,): frames that surely show the view of the one before, or of the one before a flash."""
    after_flash = np.concatenate([[False], flashes[:-1]])
    return np.array(
        [
            _skips_one(quality) if is_after_flash else _is_sure(quality.continuity, quality.shared_places)
            for quality, is_after_flash in zip(qualities, after_flash, strict=True)
        ],
        bool,
    )


def _skips_one(quality: FrameQuality) -> bool:
    return _is_sure(quality.skip_continuity, quality.skip_shared_places)


def _is_sure(continuity: float | None, shared_places: int | None) -> bool:
    return (continuity or 0) >= DOUBTFUL_CONTINUITY or (shared_places or 0) >= _SHARED_PLACES
