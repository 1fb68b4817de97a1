"""Hand-held camera path, and the video's timeline: cuts, duplicates, black frames at the start."""

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.anatomy import Anatomy
from data_prep.simulation.scene import SurfaceScene
from data_prep.simulation.surface import Curve, curve_through, smooth, unit
from pipeline.arrays import Bools, Float64s, Ints

_SPEED_MM_S = 10.0
_WANTED_CLEARANCE_MM = 3.2
# Sway keeps at least this clearance.
_KEPT_CLEARANCE_MM = 2.4
_CYCLE_S = 4.0
_GRID_HZ = 240.0
# Ends of the phases as shares of a cycle, and their speeds: forward, pause, slightly back, forward.
_PHASE_ENDS = np.array([0.40, 0.52, 0.70, 1.0])
_PHASE_SPEEDS = np.array([1.25, 0.0, -0.95, 1.25]) * _SPEED_MM_S


@dataclass(frozen=True)
class Timeline:
    """Content of each frame of the video.

    Attributes:
        segment: (N,) int64, increases by one at every hard cut.
        content_index: (N,) int64, index of the frame whose image is shown: its own, or for a duplicate the previous.
        is_black: (N,) bool.
    """

    segment: Ints
    content_index: Ints
    is_black: Bools

    @property
    def is_duplicate(self) -> Bools:
        return self.content_index != np.arange(len(self.content_index))


def plan_timeline(frames: int, black: int, cuts: int, duplicates: int, rng: np.random.Generator) -> Timeline:
    """Place cuts and duplicates at random; a duplicate is never adjacent to another, to a cut or to black frames.

    The caller checks that there is room: `frames` - `black` ≥ `frames_needed(cuts, duplicates)`.
    """
    index = np.arange(frames)
    shown = frames - black
    even = black + shown * np.arange(1, cuts + 1) / (cuts + 1)
    starts = np.round(even + rng.uniform(-0.2, 0.2, size=cuts) * shown / (cuts + 1)).astype(np.int64)
    segment = np.searchsorted(starts, index, side="right").astype(np.int64)
    content_index = index.copy()
    blocked = (index <= black) | np.isin(index, starts) | np.isin(index, starts - 1)
    for candidate in rng.permutation(frames):
        if duplicates == 0:
            break
        if not blocked[candidate]:
            content_index[candidate] = candidate - 1
            blocked[max(candidate - 1, 0) : candidate + 2] = True
            duplicates -= 1
    return Timeline(segment, content_index, index < black)


def frames_needed(cuts: int, duplicates: int) -> int:
    """Minimum number of non-black frames for these cuts and duplicates."""
    return max(8 * (cuts + 1), 3 * (duplicates + cuts + 1)) if cuts else 3 * duplicates + 1


class Flight:
    """A smooth camera path: along the way and back, with pauses, sway, rotations and roll, clear of all surfaces."""

    def __init__(self, anatomy: Anatomy, scene: SurfaceScene, rng: np.random.Generator) -> None:
        """Compute a path through `anatomy`; `scene` holds its surfaces."""
        self._way, clearance_mm = keep_clear(anatomy.way, scene, _WANTED_CLEARANCE_MM)
        self._reach_mm = _lower_envelope(np.clip(clearance_mm - _KEPT_CLEARANCE_MM, 0, anatomy.sway_mm), 61)
        self._look_ahead_mm = anatomy.look_ahead_mm
        self._look_beside_mm = np.array(anatomy.look_beside_mm)
        self._rng = rng

    def poses(self, timestamps_s: Float64s, segment: Ints) -> Float64s:
        """`cam_from_world` (N, 3, 4) at timestamps (N,), s; each segment starts at another point of the path."""
        travelled = _travelled_mm(timestamps_s)
        usable = self._way.length_mm - self._look_ahead_mm
        place = usable * self._rng.uniform(0.08, 0.16)
        poses = np.empty((len(timestamps_s), 3, 4))
        for number in np.unique(segment):
            chosen = segment == number
            phase = np.arccos(1 - 2 * place / usable) * usable / np.pi
            along = phase + travelled[chosen] - travelled[chosen][0]
            arc = usable * (1 - np.cos(np.pi * along / usable)) / 2
            poses[chosen] = self._look(arc, timestamps_s[chosen])
            place = (arc[-1] + usable * self._rng.uniform(0.42, 0.58)) % usable
        return poses

    def _look(self, arc_mm: Float64s, time_s: Float64s) -> Float64s:
        way = self._way
        sway = _sway(self._rng, time_s, 5)
        radius = np.maximum(np.linalg.norm(sway[:2], axis=0), 1.0)
        right, up = (way.at(axis, arc_mm) for axis in (way.rights, way.ups))
        reach = way.at(self._reach_mm, arc_mm)
        offset = reach * sway[:2] / radius
        on_way = way.at(way.points_mm, arc_mm)
        centre = on_way + offset[0][:, None] * right + offset[1][:, None] * up
        forward = unit(way.at(way.points_mm, arc_mm + self._look_ahead_mm) + self._look_beside_mm - on_way)
        yaw, pitch, roll = np.deg2rad([16.0, 13.0, 22.0])[:, None] * sway[2:]
        return _poses_from_directions(centre, forward, up, yaw, pitch, roll)


def keep_clear(way: Curve, scene: SurfaceScene, wanted_mm: float) -> tuple[Curve, Float64s]:
    """Move a path away from surfaces where it is closer than `wanted_mm` and there is room.

    Returns:
        The path, and the distance (N,), mm, of its points to the nearest surface.
    """
    step_mm = float(way.arc_mm[1])
    points = way.points_mm[:: round(1.0 / step_mm)].copy()
    for _ in range(60):
        closest = scene.closest_points(points)
        distance_mm = np.linalg.norm(points - closest, axis=1)
        if distance_mm.min() >= wanted_mm:
            break
        push = np.clip(wanted_mm - distance_mm, 0, None)[:, None] * unit(points - closest)
        points += 0.35 * smooth(push, 4)
        points[1:-1] += 0.3 * ((points[2:] + points[:-2]) / 2 - points[1:-1])
    dense = curve_through(points, step_mm)
    cleared = curve_through(smooth(dense.points_mm, 25), step_mm)
    return cleared, scene.distance_mm(cleared.points_mm)


def _travelled_mm(timestamps_s: Float64s) -> Float64s:
    """Distance travelled since time 0; a video shorter than a cycle contains a whole, faster cycle."""
    duration = float(timestamps_s[-1]) + 1 / _GRID_HZ
    cycle = min(_CYCLE_S, max(duration, 0.5))
    time = np.arange(0, duration + 2 / _GRID_HZ, 1 / _GRID_HZ)
    speed = _PHASE_SPEEDS[np.searchsorted(_PHASE_ENDS, np.mod(time / cycle, 1.0), side="right").clip(max=3)]
    speed = smooth(speed, max(1, int(0.08 * cycle * _GRID_HZ)))
    return np.interp(timestamps_s, time, np.cumsum(speed) / _GRID_HZ)


def _sway(rng: np.random.Generator, time_s: Float64s, channels: int) -> Float64s:
    """Slow hand motion with slight tremor, within ±1: (channels, N)."""
    frequencies_hz = np.array([0.13, 0.31, 0.74, 2.3]) * rng.uniform(0.8, 1.25, size=(channels, 4))
    weights = np.array([0.5, 0.32, 0.15, 0.03])
    phases = rng.uniform(0, 2 * np.pi, size=(channels, 4))
    waves = np.sin(2 * np.pi * frequencies_hz[..., None] * time_s + phases[..., None])
    return np.sum(weights[:, None] * waves, axis=1)


def _poses_from_directions(
    centre_mm: Float64s, forward: Float64s, up: Float64s, yaw_rad: Float64s, pitch_rad: Float64s, roll_rad: Float64s
) -> Float64s:
    """Poses with camera axes right, down, forward (COLMAP), rotated by yaw, pitch and roll: (N, 3, 4)."""
    right = unit(np.cross(forward, up))
    up = np.cross(right, forward)
    rotated = unit(forward + np.tan(yaw_rad)[:, None] * right + np.tan(pitch_rad)[:, None] * up)
    level = unit(np.cross(rotated, up))
    down = np.cross(rotated, level)
    cos, sin = np.cos(roll_rad)[:, None], np.sin(roll_rad)[:, None]
    rotation = np.stack([cos * level + sin * down, cos * down - sin * level, rotated], axis=1)
    translation = -np.einsum("nij,nj->ni", rotation, centre_mm)
    return np.concatenate([rotation, translation[..., None]], axis=-1)


def _lower_envelope(values: Float64s, window: int) -> Float64s:
    """A smooth lower bound (N,) of the values (N,)."""
    padded = np.pad(values, window, mode="edge")
    return smooth(np.lib.stride_tricks.sliding_window_view(padded, 2 * window + 1).min(axis=-1), window)
