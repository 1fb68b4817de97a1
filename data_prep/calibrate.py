"""Calibrate a camera from images of a flat pattern: write `calibration.yaml` and a plot of the residuals.

python data_prep/calibrate.py IMAGES --pattern chessboard --rows 6 --cols 9 --spacing_mm 3
"""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
import tyro

from data_prep.calibration.files import write_calibration
from data_prep.calibration.opencv_storage import parse_storage
from data_prep.calibration.pattern import Pattern, PatternKind, find_pattern
from data_prep.calibration.plot import draw_residuals
from data_prep.calibration.solve import MIN_VIEWS, Lens, Solution, View, solve
from data_prep.video.image_source import list_images
from pipeline.arrays import Bytes, Float64s
from pipeline.command.bounds import Positive, Settings
from pipeline.command.run_command import run_command
from pipeline.data.images import is_own_plot, read_pixels, write_plot
from pipeline.errors import LumenError, require
from pipeline.progress import progress

# Keys that only this command writes.
_OWN_KEYS = ("reprojection_error_px", "per_image_error_px")

logger = logging.getLogger(__name__)

# Warn above this relative deviation of the focal length, or below this covered share of the view.
_WEAK_FOCAL_DEVIATION = 0.02
_WEAK_COVERAGE = 0.3
_LARGE_ERROR_PX = 1.0
# A larger difference between fx and fy means non-square pixels or a wrong row spacing.
_ODD_ASPECT = 0.03
_NARROW_DEG = 35
_CONTENT_SHARE = 0.15


@dataclass(frozen=True)
class CalibrateConfig(Settings):
    """Calibrate a camera from images of a flat pattern: write calibration.yaml and a plot of the residuals."""

    images: tyro.conf.Positional[Path]
    """Folder of images, or a quoted glob such as "calib/*.png"; 10 to 20 images, most with a tilted pattern."""
    pattern: PatternKind
    """Kind of pattern on the board."""
    rows: Annotated[int, msgspec.Meta(ge=2)]
    """Rows of circles, or of inner corners of a chessboard; asymmetric: all rows, including the shifted ones."""
    cols: Annotated[int, msgspec.Meta(ge=2)]
    """Circles, or inner corners, per row; asymmetric: in a single row (every second row is shifted by half a step)."""
    spacing_mm: Positive
    """Distance to the next centre or corner in the same row; asymmetric: OpenCV's samples use half of it."""
    row_spacing_mm: Positive | None = None
    """Distance to the next row (asymmetric: the shifted one); default spacing_mm, half of it for asymmetric circles."""
    fisheye: bool = False
    """Fit OPENCV_FISHEYE instead of OPENCV; for lenses with a field of view above about 110 degrees."""
    radial: Literal[1, 2, 3, 4] = 2
    """Number of free radial coefficients, the others stay 0; 3 fits FULL_OPENCV, not OPENCV; 4 needs --fisheye."""
    tangential: bool = False
    """Also fit p1 and p2 (not for fisheye); use it with at least 20 images that cover the view."""
    output: Path = Path("calibration.yaml")
    """File to write; the plot gets the same name with .png."""
    overwrite: bool = False
    """Replace an existing calibration and its plot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("spacing_mm", self.spacing_mm), ("row_spacing_mm", self.row_spacing_mm)):
            require(value is None or math.isfinite(value), f"--{name} {value}: choose a finite number")
        require(
            self.pattern != "chessboard" or min(self.rows, self.cols) >= 3,
            f"--rows {self.rows} --cols {self.cols}: a chessboard needs at least 3 of each",
        )
        require(
            not (self.fisheye and self.tangential),
            "--tangential and --fisheye exclude each other: OPENCV_FISHEYE has no tangential coefficients",
        )
        require(self.radial < 4 or self.fisheye, "--radial 4 needs --fisheye; OPENCV has at most 3 radial coefficients")


@dataclass(frozen=True)
class _Collected:
    """The views found, the problem of each image without one, and the maximum of each pixel over all images."""

    views: list[View]
    problems: dict[str, str]
    brightest: Bytes


def run(config: CalibrateConfig) -> list[Path]:
    """Find the pattern in every image, fit the camera, write the calibration and the plot.

    Returns:
        The paths of both.

    Raises:
        LumenError: if there are no images or too few usable ones, if they differ in size or do not determine the
            camera, or if the output exists.
    """
    pattern, lens = _pattern(config), Lens(config.fisheye, config.radial, config.tangential)
    plot = config.output.with_suffix(".png")
    _check_output(config, plot)
    paths = list_images(config.images)
    collected = _collect(paths, pattern)
    if len(collected.views) < MIN_VIEWS:
        raise LumenError(_too_few(paths, pattern, collected))
    height, width = collected.brightest.shape
    solution = solve(collected.views, pattern, (width, height), lens)
    hull_px, coverage = _coverage(solution, collected.brightest)
    _log_result(solution, lens, coverage)
    drawn = draw_residuals(solution, collected.brightest, hull_px)
    write_calibration(config.output, solution.camera, _record(solution, pattern, lens, collected, coverage))
    write_plot(plot, drawn)
    return [config.output, plot]


def _pattern(config: CalibrateConfig) -> Pattern:
    default_row_spacing_mm = config.spacing_mm / (2 if config.pattern == "asymmetric_circles" else 1)
    row_spacing_mm = default_row_spacing_mm if config.row_spacing_mm is None else config.row_spacing_mm
    return Pattern(config.pattern, config.rows, config.cols, config.spacing_mm, row_spacing_mm)


def _check_output(config: CalibrateConfig, plot: Path) -> None:
    if config.output.suffix.lower() not in (".yaml", ".yml"):
        raise LumenError(f"--output {config.output}: the name must end in .yaml")
    for path, is_own in ((config.output, _is_calibration(config.output)), (plot, _is_own_plot(plot))):
        if path.exists() and not is_own:
            raise LumenError(f"{path} exists and was not written by this command: choose another --output")
        if path.exists() and not config.overwrite:
            raise LumenError(f"{path} exists: pass --overwrite to replace it, or choose another --output")


def _is_own_plot(path: Path) -> bool:
    return path.is_file() and is_own_plot(path)


def _is_calibration(path: Path) -> bool:
    """Whether a file was written by this command."""
    try:
        content = parse_storage(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (LumenError, ValueError, OSError):
        return False
    return isinstance(content, dict) and {"camera_matrix", *_OWN_KEYS} <= content.keys()


def _collect(paths: list[Path], pattern: Pattern) -> _Collected:
    views: list[View] = []
    problems: dict[str, str] = {}
    brightest: Bytes | None = None
    first = paths[0]
    for path in progress(paths, "detecting the pattern", unit="image"):
        gray = read_pixels(path, cv2.IMREAD_GRAYSCALE)
        if gray is None:
            problems[path.name] = "it cannot be decoded as an image"
        else:
            image = np.asarray(gray, np.uint8)
            if brightest is None:
                brightest, first = image.copy(), path
            _check_same_size(image, path, brightest, first)
            brightest = np.maximum(brightest, image)
            detection = find_pattern(image, pattern)
            if detection.points_px is None:
                problems[path.name] = detection.problem
            else:
                views.append(View(path.name, detection.points_px))
        if path.name in problems:
            logger.warning("%s is not used: %s", path.name, problems[path.name])
    if brightest is None:
        raise LumenError(f"none of the {len(paths)} files can be decoded as an image, for example {first}")
    return _Collected(views, problems, brightest)


def _check_same_size(image: Bytes, path: Path, other: Bytes, first: Path) -> None:
    if image.shape != other.shape:
        sizes = [f"{each.shape[1]}x{each.shape[0]}" for each in (image, other)]
        raise LumenError(
            f"{path} has {sizes[0]} pixels, {first.name} has {sizes[1]}: calibration needs images of one size, "
            "the size of the video"
        )


def _too_few(paths: list[Path], pattern: Pattern, collected: _Collected) -> str:
    name, problem = next(iter(collected.problems.items()), ("", ""))
    example = f"; {name}: {problem}" if name else ""
    tried = f"{pattern.cols} x {pattern.rows} (columns x rows) {pattern.kind}"
    text = f"pattern found in {len(collected.views)} of {len(paths)} images, {MIN_VIEWS} are needed; tried {tried}"
    if not collected.views:
        text += "; check --rows/--cols and --pattern"
        text += _swapped_hint(paths, pattern)
    return text + example


def _swapped_hint(paths: list[Path], pattern: Pattern) -> str:
    swapped = replace(pattern, rows=pattern.cols, cols=pattern.rows)
    for path in paths[:3]:
        gray = read_pixels(path, cv2.IMREAD_GRAYSCALE)
        if gray is not None and find_pattern(np.asarray(gray, np.uint8), swapped).points_px is not None:
            return f", {path.name} matches --rows {swapped.rows} --cols {swapped.cols}"
    return ""


def _coverage(solution: Solution, brightest: Bytes) -> tuple[Float64s, float]:
    """The convex hull of all points, (M, 2), and its share of the content area, the pixels that are ever bright."""
    points = np.concatenate([view.points_px for view in solution.views]).astype(np.float32)
    hull = np.asarray(cv2.convexHull(points)).reshape(-1, 2)
    covered = cv2.fillConvexPoly(np.zeros_like(brightest), np.round(hull).astype(np.int32), 255) > 0
    content = brightest > _CONTENT_SHARE * np.percentile(brightest, 99)
    return hull.astype(np.float64), float((covered & content).sum() / max(1, int(content.sum())))


def _log_result(solution: Solution, lens: Lens, coverage: float) -> None:
    for view, error_px in solution.dropped:
        logger.warning("%s is left out: its error of %.2f px is an outlier", view.name, error_px)
    camera, deviations = solution.camera, solution.deviations
    names = camera.params_info.split(", ")
    params = {name: float(value) for name, value in zip(names, camera.params, strict=True)}
    free = ", ".join(f"{name} = {params[name]:.6g} +- {deviations[name]:.2g}" for name in lens.free)
    logger.info("%s, free parameters: %s; other coefficients are 0", camera.model_name, free)
    count, error_px = len(solution.views), solution.error_px
    logger.info(
        "reprojection error %.3f px over %d images, %.0f %% of the view covered", error_px, count, 100 * coverage
    )
    if error_px > _LARGE_ERROR_PX:
        logger.warning(
            "this error is large: check --spacing_mm, --row_spacing_mm, --fisheye, and that the board is flat"
        )
    if coverage < _WEAK_COVERAGE:
        logger.warning(
            "the pattern covers only %.0f %% of the view; beyond it the distortion is extrapolated: add images with "
            "the pattern near the edges",
            100 * coverage,
        )
    field_of_view_deg = math.degrees(2 * math.atan(0.5 * camera.width / params["fx"]))
    if field_of_view_deg < _NARROW_DEG and not lens.fisheye:
        logger.warning(
            "a field of view of %.0f degrees is too narrow for an endoscope: check --spacing_mm and --row_spacing_mm",
            field_of_view_deg,
        )
    if abs(params["fx"] / params["fy"] - 1) > _ODD_ASPECT:
        logger.warning(
            "fx and fy differ by %.0f %%: check --spacing_mm and --row_spacing_mm, unless the pixels are not square",
            100 * abs(params["fx"] / params["fy"] - 1),
        )
    if any(deviations[name] > _WEAK_FOCAL_DEVIATION * params[name] for name in ("fx", "fy")):
        logger.warning(
            "the focal length is uncertain by more than 2 %: add images with the pattern tilted by 20 to 45 degrees"
        )


def _record(solution: Solution, pattern: Pattern, lens: Lens, collected: _Collected, coverage: float) -> dict[str, Any]:
    """What the calibration file holds besides the camera."""
    record: dict[str, Any] = {
        "reprojection_error_px": solution.error_px,
        "number_of_views": len(solution.views),
        "coverage": coverage,
        "free_parameters": lens.free,
        "standard_deviations": [solution.deviations[name] for name in lens.free],
        "pattern": pattern.kind,
        "rows": pattern.rows,
        "cols": pattern.cols,
        "spacing_mm": float(pattern.spacing_mm),
        "row_spacing_mm": float(pattern.row_spacing_mm),
        "images": [view.name for view in solution.views],
        "per_image_error_px": solution.view_errors_px.tolist(),
    }
    if solution.dropped:
        record["left_out_images"] = [view.name for view, _ in solution.dropped]
        record["left_out_error_px"] = [error_px for _, error_px in solution.dropped]
    if collected.problems:
        record["unused_images"] = list(collected.problems)
    return record


if __name__ == "__main__":
    sys.exit(run_command(CalibrateConfig, run))
