"""Procedural anatomy in millimetres: a colon and a nasal cavity, generated from a seed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_prep.simulation.noise import SolidNoise
from data_prep.simulation.surface import Curve, Surface, curve_through, make_surface, smooth, sweep
from pipeline.arrays import Float64s


@dataclass(frozen=True)
class Anatomy:
    """Surfaces and a camera path between them.

    Attributes:
        surfaces: they may intersect; the nearest one is visible.
        way: the camera path before it is moved away from the walls.
        sway_mm: maximum hand motion away from the path, where there is room.
        look_ahead_mm: the camera looks at the point of the path this far ahead,
        look_beside_mm: shifted by this offset along the world's x, y, z.
    """

    surfaces: tuple[Surface, ...]
    way: Curve
    sway_mm: float
    look_ahead_mm: float
    look_beside_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


def make_colon(rng: np.random.Generator) -> Anatomy:
    """A tube of 20-25 mm radius around a curved centre line, with semilunar folds in three bands."""
    centre = _meander(rng, length_mm=215.0, bend_rad=0.55, bend_length_mm=150.0, step_mm=0.35)
    columns = 330
    angle = np.linspace(0, 2 * np.pi, columns)[None]
    along = centre.arc_mm[:, None]
    band_angle = angle + rng.uniform(0, 2 * np.pi) + 0.25 * np.sin(along / 55.0 + rng.uniform(0, 6))
    radius = 22.5 + 1.6 * np.sin(along / 23.0 + rng.uniform(0, 6)) + 1.0 * np.sin(along / 9.7 + rng.uniform(0, 6))
    radius = radius - 1.3 * np.cos(1.5 * band_angle) ** 8 - _fold_depth_mm(rng, along, band_angle)
    points = sweep(centre, radius * np.cos(angle), radius * np.sin(angle))
    outward = unit_offsets(points, centre.points_mm)
    points = points + outward * _undulation_mm(rng, points, ((16.0, 0.7), (6.5, 0.16), (2.8, 0.02)))
    closing = _rounded_ends(centre.arc_mm, 22.0)[:, None, None]
    points = centre.points_mm[:, None] + (points - centre.points_mm[:, None]) * closing
    points[:, -1] = points[:, 0]
    wall = make_surface(points, centre.points_mm, seen_from="inside")
    inner = (centre.arc_mm > 35.0) & (centre.arc_mm < 165.0)
    way = curve_through(centre.points_mm[inner], 0.25)
    return Anatomy((wall,), way, sway_mm=4.0, look_ahead_mm=22.0)


def make_sinus(rng: np.random.Generator) -> Anatomy:
    """A nasal cavity: a slit between septum and lateral wall, three turbinates, a narrowing, a wider chamber."""
    side = rng.choice([-1.0, 1.0])
    scale = rng.uniform(0.95, 1.08)
    wall = _nasal_wall(rng, side, scale)
    turbinates = [
        _turbinate(rng, side, scale, centre_mm=(5.4, -6.8), radii_mm=(5.7, 6.8), reach_mm=(0.0, 47.0), droop_mm=-0.6),
        _turbinate(rng, side, scale, centre_mm=(4.8, 7.4), radii_mm=(4.6, 5.8), reach_mm=(11.0, 46.0), droop_mm=-1.2),
        _turbinate(rng, side, scale, centre_mm=(4.0, 14.8), radii_mm=(3.0, 2.6), reach_mm=(22.0, 45.0), droop_mm=-1.5),
    ]
    depth = np.linspace(-15.0, 66.0, 330)
    across = np.interp(depth, [-15, -6, 3, 44, 56, 66], [0.3, -0.8, -3.3, -3.3, 0.0, 0.5])
    up = np.interp(depth, [-15, 0, 20, 44, 56, 66], [-2.5, -2.0, -0.2, -1.0, -4.5, -9.0])
    way = curve_through(smooth(np.stack([side * across, up, depth], axis=-1) * scale, 41), 0.2)
    return Anatomy((wall, *turbinates), way, sway_mm=1.6, look_ahead_mm=12.0, look_beside_mm=(4.5 * side, -0.5, 0.0))


ANATOMIES: dict[str, Callable[[np.random.Generator], Anatomy]] = {"colon": make_colon, "sinus": make_sinus}


def unit_offsets(points_mm: Float64s, centres_mm: Float64s) -> Float64s:
    """Unit vectors from the centre of each row (rows, 3) to its points (rows, columns, 3)."""
    offsets = points_mm - centres_mm[:, None]
    return offsets / np.maximum(np.linalg.norm(offsets, axis=-1, keepdims=True), 1e-9)


def _meander(
    rng: np.random.Generator, length_mm: float, bend_rad: float, bend_length_mm: float, step_mm: float
) -> Curve:
    arc = np.arange(0, length_mm + step_mm, step_mm)
    yaw, pitch = (
        bend_rad * np.sin(2 * np.pi * arc / (bend_length_mm * rng.uniform(0.85, 1.25)) + rng.uniform(0, 2 * np.pi))
        for _ in range(2)
    )
    directions = np.stack([np.sin(yaw), np.sin(pitch) * np.cos(yaw), np.cos(pitch) * np.cos(yaw)], axis=-1)
    return curve_through(np.cumsum(directions * step_mm, axis=0), step_mm)


def _fold_depth_mm(rng: np.random.Generator, along: Float64s, band_angle: Float64s) -> Float64s:
    """Semilunar folds: thin crests that extend into the lumen between two bands and end at the bands."""
    depth = np.zeros(np.broadcast_shapes(along.shape, band_angle.shape))
    for band in range(3):
        within = np.mod(band_angle - 2 * np.pi * band / 3, 2 * np.pi) * 1.5
        arch = np.where(within < np.pi, np.sin(np.minimum(within, np.pi)), 0.0)
        position = rng.uniform(0, 20)
        while position < along.max():
            height = rng.uniform(4.5, 8.5)
            tilt = rng.uniform(-2.5, 2.5)
            offset = along - position - tilt * np.cos(within) - 1.6 * arch
            crest = np.exp(-((offset / rng.uniform(1.7, 2.6)) ** 2)) + 0.25 * np.exp(-((offset / 5.5) ** 2))
            depth = np.maximum(depth, height * arch**1.3 * crest)
            position += rng.uniform(17, 27)
    return depth


def _nasal_wall(rng: np.random.Generator, side: float, scale: float) -> Surface:
    depth = np.arange(-34.0, 88.0, 0.28)
    marks = [-34, -15, -4, 6, 44, 54, 62, 88]
    half_width = smooth(np.interp(depth, marks, [6.5, 6.8, 7.0, 6.9, 6.9, 5.0, 12.0, 12.0]), 31)
    half_height = smooth(np.interp(depth, marks, [8.5, 9.0, 13.0, 17.5, 18.0, 10.0, 14.0, 14.0]), 31)
    middle_up = smooth(np.interp(depth, marks, [-2, -2, 0.5, 3, 2.5, -3, -7, -24]), 31)
    centre = curve_through(np.stack([0 * depth, middle_up, depth], axis=-1) * scale, 0.28 * scale)
    rows = np.linspace(0, len(depth) - 1, len(centre.arc_mm))
    half_width, half_height = (
        np.interp(rows, np.arange(len(depth)), v)[:, None] * scale for v in (half_width, half_height)
    )
    angle = np.linspace(0, 2 * np.pi, 340)[None]
    roundness = 0.8
    across = half_width * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** roundness
    up = half_height * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** roundness
    ridge = 1.1 * np.exp(
        -(((centre.arc_mm[:, None] - rng.uniform(50, 62)) / 9) ** 2) - ((up - rng.uniform(-9, 8)) / 5) ** 2
    )
    across = side * (across + ridge * (np.cos(angle) < 0) * np.abs(np.cos(angle)))
    points = sweep(centre, across, up)
    outward = unit_offsets(points, centre.points_mm)
    points = points + outward * _undulation_mm(rng, points, ((14.0, 0.6), (6.0, 0.16), (2.2, 0.02)))
    closing = _rounded_ends(centre.arc_mm, 10.0)[:, None, None]
    points = centre.points_mm[:, None] + (points - centre.points_mm[:, None]) * closing
    points[:, -1] = points[:, 0]
    return make_surface(points, centre.points_mm, seen_from="inside")


def _turbinate(
    rng: np.random.Generator,
    side: float,
    scale: float,
    centre_mm: tuple[float, float],
    radii_mm: tuple[float, float],
    reach_mm: tuple[float, float],
    droop_mm: float,
) -> Surface:
    """An elongated body along the lateral wall: a round head in front, its tail curving into the wall."""
    forward = _even_along_outline(_thickness, float(np.mean(radii_mm)) / (reach_mm[1] - reach_mm[0]), 220)
    depth = reach_mm[0] + (reach_mm[1] - reach_mm[0]) * forward
    across = centre_mm[0] + 0.3 * np.sin(np.pi * forward * rng.uniform(1.5, 2.2)) + 2.2 * forward**3
    up = centre_mm[1] + droop_mm * np.sin(np.pi * forward) + rng.uniform(-0.4, 0.4)
    axis = np.stack([side * across, up, depth], axis=-1) * scale
    angle = np.linspace(0, 2 * np.pi, 180)[None]
    thickness = _thickness(forward)[:, None]
    hang = 0.25 * np.sin(angle)
    offsets = np.stack(
        [
            radii_mm[0] * thickness * (np.cos(angle) - side * hang * 0.6),
            radii_mm[1] * thickness * np.sin(angle),
            0 * angle * thickness,
        ],
        axis=-1,
    )
    points = axis[:, None] + offsets * scale
    outward = unit_offsets(points, axis)
    points = (
        points + outward * _undulation_mm(rng, points, ((10.0, 0.35), (4.5, 0.07), (1.8, 0.012))) * thickness[..., None]
    )
    points[:, -1] = points[:, 0]
    return make_surface(points, axis, seen_from="outside")


def _thickness(forward: Float64s) -> Float64s:
    """Relative thickness from the head (0) to the tail (1)."""
    return np.sqrt(np.clip(1 - np.abs(2 * forward - 1) ** 3.2, 0, None)) * (1.0 - 0.25 * forward)


def _even_along_outline(profile: Callable[[Float64s], Float64s], slimness: float, rows: int) -> Float64s:
    """Positions from 0 to 1, (rows,), evenly spaced along the outline of a body with this profile."""
    # Denser samples near the ends, where the outline is steep.
    fine = (1 - np.cos(np.linspace(0, np.pi, 20 * rows))) / 2
    outline = np.cumsum(np.hypot(np.diff(fine, prepend=0), slimness * np.diff(profile(fine), prepend=0)))
    return np.interp(np.linspace(outline[0], outline[-1], rows), outline, fine)


def _undulation_mm(rng: np.random.Generator, points_mm: Float64s, octaves: tuple[tuple[float, float], ...]) -> Float64s:
    """Solid noise (rows, columns, 1), mm, from pairs of wavelength and amplitude, mm."""
    total = np.zeros((*points_mm.shape[:-1], 1))
    for length_mm, amplitude_mm in octaves:
        total += amplitude_mm * SolidNoise(rng, length_mm).value(points_mm)[..., None]
    return total


def _rounded_ends(arc_mm: Float64s, radius_mm: float) -> Float64s:
    """A factor that closes both ends of a tube like half-ellipsoids of this length."""
    inside = np.minimum(arc_mm - arc_mm[0], arc_mm[-1] - arc_mm)
    return np.sqrt(np.clip(1 - np.clip(1 - inside / radius_mm, 0, 1) ** 2, 0, 1))
