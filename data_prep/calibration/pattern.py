"""Detect a calibration pattern in an endoscopic image: dim, noisy, with glare, in a round content area."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.arrays import AnyArray, Bytes, Float64s

PatternKind = Literal["chessboard", "circles", "asymmetric_circles"]

# Maximum deviation of a point from the best homography of the plane, as a fraction of the neighbour distance. Beyond it
# the grid is ordered wrongly; lens distortion over a whole board stays far below it.
_MAX_GRID_MISFIT = 0.35
# Minimum circle sizes to try, as fractions of the image area: large ones first, because noise is small.
_MIN_CIRCLE_SHARES = (1.2e-4, 4e-5, 1.5e-5)
_MIN_CIRCLE_AREA_PX = 20.0
_MAX_CIRCLE_SHARE = 0.02
# More blobs per expected circle are noise; the grid search would take minutes and find nothing.
_MAX_BLOBS_PER_CIRCLE = 3
_MIN_CONTRAST = 8.0


@dataclass(frozen=True)
class Pattern:
    """A flat calibration pattern.

    Attributes:
        kind: type of the pattern.
        rows, cols: inner corners of a chessboard, circles of the other kinds.
        spacing_mm: distance between neighbours in a row.
        row_spacing_mm: distance between neighbouring rows.
    """

    kind: PatternKind
    rows: int
    cols: int
    spacing_mm: float
    row_spacing_mm: float

    def object_points_mm(self) -> Float64s:
        """(rows * cols, 3) float64, mm, row by row in the plane z = 0, in the order of `find_pattern`."""
        row, column = np.mgrid[: self.rows, : self.cols].reshape(2, -1).astype(np.float64)
        if self.kind == "asymmetric_circles":
            column = column + 0.5 * (row % 2)
        return np.column_stack([column * self.spacing_mm, row * self.row_spacing_mm, np.zeros_like(row)])

    @property
    def size(self) -> tuple[int, int]:
        """(cols, rows), OpenCV's order."""
        return self.cols, self.rows


@dataclass(frozen=True)
class Detection:
    """Result of the detection in one image.

    Attributes:
        points_px: (rows * cols, 2) float64 in OpenCV's convention, None if the pattern was not found.
        problem: reason of the failure, if known; empty if the pattern was found.
    """

    points_px: Float64s | None
    problem: str


def find_pattern(gray: Bytes, pattern: Pattern) -> Detection:
    """Detect the whole pattern in an image (H, W) uint8, trying several normalisations and both polarities."""
    contrast = float(np.percentile(gray, 99)) - float(np.percentile(gray, 1))
    if contrast < _MIN_CONTRAST:
        return Detection(None, f"the image has almost no contrast ({contrast:.0f} of 255 grey levels)")
    if pattern.kind == "chessboard":
        return _find_chessboard(gray, pattern)
    return _find_circles(gray, pattern)


def _find_chessboard(gray: Bytes, pattern: Pattern) -> Detection:
    sector_flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
    classic_flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE
    for variant in (gray, _flattened(gray)):
        found, corners = cv2.findChessboardCornersSB(variant, pattern.size, None, sector_flags)
        if not found:
            found, corners = cv2.findChessboardCorners(variant, pattern.size, None, classic_flags)
        if found and _is_grid(corners.reshape(-1, 2), pattern):
            return Detection(_refine_corners(gray, np.asarray(corners), pattern), "")
    board = f"{pattern.cols} x {pattern.rows} inner corners"
    return Detection(None, f"no board of {board} found: is all of it in view, in focus and free of glare?")


def _refine_corners(gray: Bytes, corners: AnyArray, pattern: Pattern) -> Float64s:
    """Sub-pixel corners; the search window excludes neighbouring corners."""
    points = np.ascontiguousarray(corners.reshape(-1, 1, 2), dtype=np.float32)
    half_px = int(np.clip(_neighbour_distance_px(points[:, 0], pattern) / 3, 2, 11))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    return cv2.cornerSubPix(gray, points, (half_px, half_px), (-1, -1), criteria).reshape(-1, 2).astype(np.float64)


def _find_circles(gray: Bytes, pattern: Pattern) -> Detection:
    needed = pattern.rows * pattern.cols
    most, most_polarity = 0, "dark"
    for share in _MIN_CIRCLE_SHARES:
        detector = _blob_detector(max(_MIN_CIRCLE_AREA_PX, share * gray.size), _MAX_CIRCLE_SHARE * gray.size)
        for variant, polarity in _circle_variants(gray):
            blobs = len(detector.detect(variant))
            if blobs > _MAX_BLOBS_PER_CIRCLE * needed:
                continue
            if blobs > most:
                most, most_polarity = blobs, polarity
            centres = _circle_grid(variant, pattern, detector) if blobs >= needed else None
            if centres is not None:
                return Detection(centres, "")
    if most < needed:
        problem = f"only {most} {most_polarity} circles of {needed} found: are they cut off, out of focus or in glare?"
    else:
        problem = f"{most} {most_polarity} blobs found, but no grid of {pattern.cols} x {pattern.rows} among them"
    return Detection(None, problem)


def _circle_grid(image: Bytes, pattern: Pattern, detector: cv2.SimpleBlobDetector) -> Float64s | None:
    grid = cv2.CALIB_CB_ASYMMETRIC_GRID if pattern.kind == "asymmetric_circles" else cv2.CALIB_CB_SYMMETRIC_GRID
    for flags in (grid, grid | cv2.CALIB_CB_CLUSTERING):
        found, centres = cv2.findCirclesGrid(image, pattern.size, None, flags, detector)
        if found and _is_grid(centres.reshape(-1, 2), pattern):
            return centres.reshape(-1, 2).astype(np.float64)
    return None


def _circle_variants(gray: Bytes) -> Iterator[tuple[Bytes, str]]:
    """Images with dark circles, the least processed first, and the original polarity of the circles."""
    for invert in (False, True):
        for treat in (_smooth, _smooth_flattened, _equalised):
            image = treat(gray)
            yield np.asarray(255 - image if invert else image, np.uint8), "bright" if invert else "dark"


def _smooth(gray: Bytes) -> Bytes:
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), max(0.8, min(gray.shape) / 800)), np.uint8)


def _smooth_flattened(gray: Bytes) -> Bytes:
    return _flattened(_smooth(gray))


def _equalised(gray: Bytes) -> Bytes:
    return np.asarray(cv2.createCLAHE(3.0, (8, 8)).apply(_smooth(gray)), np.uint8)


def _flattened(gray: Bytes) -> Bytes:
    """The image divided by its local mean, which falls off towards the edge of the view; 128 = local mean."""
    values = gray.astype(np.float32) + 1
    small = cv2.resize(values, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    light = cv2.resize(cv2.GaussianBlur(small, (0, 0), min(small.shape) / 12), gray.shape[::-1])
    return np.clip(128 * values / np.maximum(light, 8), 0, 255).astype(np.uint8)


def _blob_detector(min_area_px: float, max_area_px: float) -> cv2.SimpleBlobDetector:
    params = cv2.SimpleBlobDetector.Params()
    params.minThreshold = 10
    params.maxThreshold = 245
    params.thresholdStep = 6
    params.minRepeatability = 2
    params.minArea = min_area_px
    params.maxArea = max_area_px
    params.minDistBetweenBlobs = math.sqrt(min_area_px)
    params.filterByColor = True
    params.blobColor = 0
    params.filterByCircularity = False
    params.filterByInertia = True
    params.minInertiaRatio = 0.15
    params.filterByConvexity = True
    params.minConvexity = 0.85
    return cv2.SimpleBlobDetector.create(params)


def _is_grid(points: AnyArray, pattern: Pattern) -> bool:
    """Whether points (N, 2) are a perspective view of the pattern."""
    homography, _ = cv2.findHomography(pattern.object_points_mm()[:, :2], points.astype(np.float64))
    if homography is None:
        return False
    fitted = cv2.perspectiveTransform(pattern.object_points_mm()[:, None, :2], homography)[:, 0]
    misfit_px = np.hypot(*(fitted - points).T)
    return bool(misfit_px.max() < _MAX_GRID_MISFIT * _neighbour_distance_px(points, pattern))


def _neighbour_distance_px(points: AnyArray, pattern: Pattern) -> float:
    along_rows = np.diff(points.reshape(pattern.rows, pattern.cols, 2), axis=1)
    down = np.diff(points.reshape(pattern.rows, pattern.cols, 2), axis=0)
    return float(min(np.median(np.linalg.norm(step, axis=-1)) for step in (along_rows, down)))
