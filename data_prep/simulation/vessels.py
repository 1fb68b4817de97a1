"""Branching vessels, drawn into a surface texture with lengths in millimetres."""

import cv2
import numpy as np

from pipeline.arrays import Float32s

_STEP_MM = 0.4
_BEND_RAD = 0.11
_STRAIGHTENING = 0.06
_BRANCH_CHANCE = 0.07
_THINNEST_MM = 0.05
_MAX_BRANCHES = 14
_SOFTNESS_MM = 0.09
# Near closed tube ends, texels are too narrow to preserve a vessel's shape.
_NARROWEST_ROW = 0.35


class VesselPainter:
    """Generates vessel trees as random walks that bend, thin out and branch."""

    def __init__(self, row_mm: Float32s, column_mm: Float32s, per_cell: int, columns: int) -> None:
        """Create an empty layer for a tube; each row of cells has texels of `row_mm` x `column_mm`, (rows,)."""
        self._row_mm = row_mm
        self._column_mm = column_mm
        self._per_cell = per_cell
        self._layer = np.zeros((len(row_mm) * per_cell + 1, columns), dtype=np.uint8)

    def density(self, trees_per_cm2: float, width_mm: float, rng: np.random.Generator) -> Float32s:
        """Add trees of about this width; return the vessel density of each texel: (rows, columns) in 0-1."""
        rows, columns = self._layer.shape
        area_cm2 = float(np.sum(self._row_mm * self._column_mm)) * self._per_cell * (columns - 1) / 100
        for _ in range(rng.poisson(area_cm2 * trees_per_cm2)):
            row, column = rng.uniform((0.1 * rows, 0), (0.9 * rows, columns))
            self._grow(row, column, rng.uniform(0, 2 * np.pi), width_mm * rng.uniform(0.5, 1.1), rng)
        softness = _SOFTNESS_MM / float(np.median(self._row_mm))
        return cv2.GaussianBlur(self._layer, (0, 0), softness).astype(np.float32) / np.float32(255)

    def _grow(self, row: float, column: float, heading_rad: float, width_mm: float, rng: np.random.Generator) -> None:
        branches = [(row, column, heading_rad, width_mm)]
        while branches:
            row, column, heading, width = branches.pop()
            bend, onward = 0.0, heading
            for _ in range(int(rng.uniform(8, 40))):
                bend = 0.8 * bend + rng.normal(0, _BEND_RAD)
                heading += bend - _STRAIGHTENING * (heading - onward)
                width *= 0.985
                step = self._step(row, column, heading)
                if step is None or width < _THINNEST_MM:
                    break
                self._stroke((column, row), (step[1], step[0]), width / self._row_mm_at(row))
                row, column = step[0], step[1] % (self._layer.shape[1] - 1)
                if rng.uniform() < _BRANCH_CHANCE and len(branches) < _MAX_BRANCHES:
                    fork = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
                    branches.append((row, column, fork, width * 0.7))

    def _step(self, row: float, column: float, heading_rad: float) -> tuple[float, float] | None:
        cell = min(int(row / self._per_cell), len(self._row_mm) - 1)
        end = row + _STEP_MM * np.sin(heading_rad) / self._row_mm[cell]
        if not 0 <= end < len(self._layer) or self._column_mm[cell] < _NARROWEST_ROW * self._column_mm.max():
            return None
        return end, column + _STEP_MM * np.cos(heading_rad) / self._column_mm[cell]

    def _row_mm_at(self, row: float) -> float:
        return float(self._row_mm[min(int(row / self._per_cell), len(self._row_mm) - 1)])

    def _stroke(self, start: tuple[float, float], end: tuple[float, float], width_texels: float) -> None:
        """Draw a line that wraps around the tube; a line thinner than a texel is fainter."""
        period = self._layer.shape[1] - 1
        thickness = max(1, round(width_texels))
        strength = int(255 * min(1.0, width_texels / thickness))
        shifts = (0,) if 2 * thickness < start[0] < period - 2 * thickness else (-period, 0, period)
        for shift in shifts:
            first, last = ((round((x + shift) * 16), round(y * 16)) for x, y in (start, end))
            cv2.line(self._layer, first, last, strength, thickness, cv2.LINE_AA, 4)
