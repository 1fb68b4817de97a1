"""Plot of a calibration: residual vectors, covered part of the view, error of each image.

Drawn with OpenCV, which is already a dependency: lines, dots and bars need no plotting library.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from data_prep.calibration.solve import Solution
from pipeline.arrays import Bytes, Float64s

Colour = tuple[int, int, int]

_HEIGHT = 900
_BAR_PANEL_WIDTH = 620
_TITLE_HEIGHT = 96
_MAX_BARS = 40
_WHITE, _GREY, _DARK = (245, 245, 245), (150, 150, 150), (28, 26, 24)
_BLUE, _RED, _YELLOW = (230, 170, 80), (80, 80, 235), (90, 215, 245)
# The magnification is chosen so that the 95th percentile of the vectors is closest to this length.
_MAGNIFICATIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_VECTOR_LENGTH = 26.0


def draw_residuals(solution: Solution, background: Bytes, hull_px: Float64s) -> Bytes:
    """Draw a solution.

    Args:
        solution: what to draw.
        background: (H, W) uint8, the view of the camera, drawn dimmed.
        hull_px: (M, 2) outline of the covered part, in OpenCV's convention.

    Returns:
        (h, w, 3) uint8 BGR. Left: the image area with every detected point, its residual (detected minus projected,
        magnified as stated) and the outline of the covered part. Right: the error of each image, largest first.
    """
    scale = _HEIGHT / background.shape[0]
    if background.shape[1] * scale > 2 * _HEIGHT:
        scale = 2 * _HEIGHT / background.shape[1]
    area, magnification = _residual_panel(solution, background, hull_px, scale)
    bars = _bar_panel(solution, area.shape[0])
    body = np.hstack([area, bars])
    title = np.full((_TITLE_HEIGHT, body.shape[1], 3), _DARK, np.uint8)
    count = f"{len(solution.views)} images, {len(solution.dropped)} left out"
    _write(
        title,
        f"{solution.camera.model_name}   RMS reprojection error {solution.error_px:.3f} px   {count}",
        (16, 36),
        0.85,
    )
    note = f"residual vectors are magnified x{magnification}; blue: covered part, cross: principal point"
    _write(title, note, (16, 74), 0.58, _GREY)
    return np.vstack([title, body])


def _residual_panel(solution: Solution, background: Bytes, hull_px: Float64s, scale: float) -> tuple[Bytes, int]:
    size = (round(background.shape[1] * scale), round(background.shape[0] * scale))
    dimmed = (cv2.resize(background, size, interpolation=cv2.INTER_AREA) * 0.45).astype(np.uint8)
    panel = np.ascontiguousarray(np.repeat(dimmed[..., None], 3, axis=-1))
    points = np.stack([view.points_px for view in solution.views])
    lengths_px = np.linalg.norm(solution.residuals_px, axis=-1)
    typical_px = max(float(np.percentile(lengths_px, 95)), 1e-9)
    magnification = min(_MAGNIFICATIONS, key=lambda each: abs(np.log(each * scale * typical_px / _VECTOR_LENGTH)))
    outline = _subpixel(hull_px, scale)
    cv2.polylines(panel, [outline[:, None]], True, _BLUE, 1, cv2.LINE_AA, 4)
    starts = _subpixel(points.reshape(-1, 2), scale)
    ends = starts + np.round(solution.residuals_px.reshape(-1, 2) * magnification * scale * 16).astype(int)
    limit_px = 2.5 * solution.error_px
    for start, end, length_px in zip(starts.tolist(), ends.tolist(), lengths_px.ravel(), strict=True):
        cv2.line(panel, tuple(start), tuple(end), _RED if length_px > limit_px else _YELLOW, 1, cv2.LINE_AA, 4)
        cv2.circle(panel, tuple(start), 24, _WHITE, -1, cv2.LINE_AA, 4)
    camera = solution.camera
    centre = np.round(np.array([camera.principal_point_x, camera.principal_point_y]) * scale).astype(int)
    cv2.drawMarker(panel, (int(centre[0]), int(centre[1])), _BLUE, cv2.MARKER_CROSS, 24, 1, cv2.LINE_AA)
    _scale_bar(panel, magnification * scale, typical_px)
    return panel, magnification


def _subpixel(points_px: Float64s, scale: float) -> npt.NDArray[np.int32]:
    """Convert image points (N, 2) in OpenCV's convention to drawing coordinates with four fractional bits."""
    return np.round(((points_px + 0.5) * scale - 0.5) * 16).astype(np.int32)


def _scale_bar(panel: Bytes, length_per_px: float, typical_px: float) -> None:
    """Draw a line whose length is a round number of residual pixels."""
    value_px = 10.0 ** np.floor(np.log10(4 * typical_px))
    value_px *= max(step for step in (1, 2, 5) if step * value_px <= 4 * typical_px)
    length = round(value_px * length_per_px)
    top = panel.shape[0] - 24
    cv2.line(panel, (20, top), (20 + length, top), _YELLOW, 2)
    _write(panel, f"= {value_px:g} px", (30 + length, top + 6), 0.6, _YELLOW)


def _bar_panel(solution: Solution, height: int) -> Bytes:
    panel = np.full((height, _BAR_PANEL_WIDTH, 3), _DARK, np.uint8)
    _write(panel, "error of each image, px (RMS)", (20, 34), 0.65)
    rows = [
        (error_px, view.name, False) for view, error_px in zip(solution.views, solution.view_errors_px, strict=True)
    ]
    rows += [(error_px, view.name, True) for view, error_px in solution.dropped]
    rows.sort(reverse=True)
    shown = rows[:_MAX_BARS]
    step = min(34, (height - 110) // max(1, len(shown)))
    left, width = 210, _BAR_PANEL_WIDTH - 210 - 150
    longest = max(rows[0][0], 1e-9)
    for index, (error_px, name, is_dropped) in enumerate(shown):
        top = 56 + index * step
        end = left + max(1, round(width * error_px / longest))
        text_size = min(0.5, step / 36)
        cv2.rectangle(panel, (left, top), (end, top + max(2, step - 6)), _RED if is_dropped else _YELLOW, -1)
        _write(panel, _shortened(name), (20, top + step - 10), text_size, _WHITE)
        label = f"{error_px:.3f}" + (" left out" if is_dropped else "")
        _write(panel, label, (left + width + 12, top + step - 10), text_size)
    bottom = 56 + len(shown) * step
    overall = left + round(width * solution.error_px / longest)
    cv2.line(panel, (overall, 50), (overall, bottom), _BLUE, 1)
    _write(panel, f"all {solution.error_px:.3f}", (overall - 30, bottom + 20), 0.5, _BLUE)
    if len(rows) > len(shown):
        _write(panel, f"and {len(rows) - len(shown)} images with smaller errors", (20, bottom + 44), 0.5, _GREY)
    return panel


def _shortened(name: str, longest: int = 20) -> str:
    # OpenCV's font is ASCII only.
    text = name.encode("ascii", "replace").decode()
    return text if len(text) <= longest else ".." + text[2 - longest :]


def _write(image: Bytes, text: str, where: Sequence[int], size: float, colour: Colour = _WHITE) -> None:
    font: Any = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, text, (int(where[0]), int(where[1])), font, size, colour, 1, cv2.LINE_AA)
