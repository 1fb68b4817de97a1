"""Fit a camera to detected patterns: OpenCV's calibration with few free coefficients and outlier views removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycolmap

from data_prep.calibration.pattern import Pattern
from pipeline.arrays import Float64s
from pipeline.conventions import colmap_from_opencv
from pipeline.errors import LumenError, require

MIN_VIEWS = 3
# With fewer views, an outlier does not show which views are wrong.
_MIN_VIEWS_TO_JUDGE = 6
_MAX_DROPPED_SHARE = 1 / 3
# A view with a smaller error is never left out.
_GOOD_VIEW_PX = 0.3
_ITERATIONS = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 200, 1e-9)
# A larger focal length, in multiples of the larger image side, indicates a wrong pattern shape.
_MAX_FOCAL = 10.0
# The fisheye solver converges only locally: initial focal lengths, as fractions of the larger side.
_FISHEYE_STARTS = (1 / np.pi, 0.5, 0.8, 0.22)

# Limits for rejecting a fit: RMS error over all points, and error of a pixel after unprojection and projection.
_LARGEST_ERROR_PX = 5.0
_LARGEST_INVERSION_PX = 0.5


@dataclass(frozen=True)
class Lens:
    """The camera model to fit and its free parameters.

    Attributes:
        fisheye: fit OPENCV_FISHEYE instead of OPENCV (or FULL_OPENCV, with three radial coefficients).
        radial: number of free radial coefficients, 1 to 3, up to 4 for a fisheye; the others stay 0.
        tangential: also fit p1 and p2; not for a fisheye.
    """

    fisheye: bool
    radial: int
    tangential: bool

    @property
    def free(self) -> list[str]:
        """Names of the free parameters."""
        radial = [f"k{number}" for number in range(1, self.radial + 1)]
        return ["fx", "fy", "cx", "cy", *radial, *(["p1", "p2"] if self.tangential else [])]


@dataclass(frozen=True)
class View:
    """A pattern detected in an image: file name and (rows * cols, 2) float64 points, px in OpenCV's convention."""

    name: str
    points_px: Float64s


@dataclass(frozen=True)
class Solution:
    """A fitted camera.

    Attributes:
        camera: in COLMAP's convention.
        views: the views it is fitted to.
        residuals_px: (V, N, 2) float64, detected minus projected.
        deviations: standard deviation of each free parameter (px; coefficients have no unit), from the residuals.
        dropped: views left out, with their errors (px) at that time.
    """

    camera: pycolmap.Camera
    views: tuple[View, ...]
    residuals_px: Float64s
    deviations: dict[str, float]
    dropped: tuple[tuple[View, float], ...] = ()

    @property
    def error_px(self) -> float:
        """RMS distance between detected and projected points."""
        return float(np.sqrt((self.residuals_px**2).sum(axis=-1).mean()))

    @property
    def view_errors_px(self) -> Float64s:
        """RMS distance of each view: (V,) float64."""
        return np.sqrt((self.residuals_px**2).sum(axis=-1).mean(axis=-1))


def solve(views: Sequence[View], pattern: Pattern, image_size: tuple[int, int], lens: Lens) -> Solution:
    """Fit the camera, leave out the view with an outlying error, and repeat until there is none.

    Args:
        views: at least three.
        pattern: the pattern in the views.
        image_size: (width, height), px.
        lens: the model to fit.

    Raises:
        LumenError: if there are too few views, or they do not determine the camera.
    """
    if len(views) < MIN_VIEWS:
        raise LumenError(
            f"{len(views)} usable images are too few to calibrate: take at least {MIN_VIEWS}, better 10 to 20"
        )
    dropped: list[tuple[View, float]] = []
    most_dropped = int(len(views) * _MAX_DROPPED_SHARE)
    while True:
        solution = _fit(tuple(views), pattern, image_size, lens)
        errors_px = solution.view_errors_px
        worst = int(errors_px.argmax())
        if len(views) < _MIN_VIEWS_TO_JUDGE or len(dropped) >= most_dropped or errors_px[worst] < _limit_px(errors_px):
            break
        dropped.append((views[worst], float(errors_px[worst])))
        views = [view for index, view in enumerate(views) if index != worst]
    _check_solution(solution)
    return Solution(solution.camera, solution.views, solution.residuals_px, solution.deviations, tuple(dropped))


def _check_solution(solution: Solution) -> None:
    """Reject a fit that does not explain the images, or whose distortion is not invertible at the pattern's points."""
    require(
        solution.error_px <= _LARGEST_ERROR_PX,
        f"the pattern does not explain the images (error {solution.error_px:.1f} px): check "
        "--pattern, --rows, --cols, --spacing_mm, --row_spacing_mm and --fisheye, and that the board is flat",
    )
    found = np.asarray(colmap_from_opencv(np.concatenate([view.points_px for view in solution.views])), np.float64)
    rays: Any = solution.camera.cam_from_img(found)
    returned: Any = solution.camera.img_from_cam(np.column_stack([rays, np.ones(len(found))]))
    misses = ~(np.linalg.norm(returned - found, axis=1) < _LARGEST_INVERSION_PX)
    require(
        not misses.any(),
        f"the distortion is not invertible (it folds the image) at {misses.mean():.0%} of the pattern's points: check "
        "--spacing_mm, --row_spacing_mm and --fisheye, choose a smaller --radial, or add images near the edges",
    )


def _limit_px(errors_px: Float64s) -> float:
    median = float(np.median(errors_px))
    spread = 1.4826 * float(np.median(np.abs(errors_px - median)))
    return max(2 * median, median + 4 * spread, _GOOD_VIEW_PX)


@dataclass(frozen=True)
class _Fit:
    """OpenCV's result: matrix (3, 3), coefficients (D,), and a rotation vector (3,) and translation (3,) per view."""

    matrix: Float64s
    coefficients: Float64s
    rotations: Sequence[Any]
    translations: Sequence[Any]


def _fit(views: tuple[View, ...], pattern: Pattern, image_size: tuple[int, int], lens: Lens) -> Solution:
    fit = (_fit_fisheye if lens.fisheye else _fit_perspective)(views, pattern, image_size, lens)
    residuals, normal = [], np.zeros((len(lens.free), len(lens.free)))
    for view, rotation, translation in zip(views, fit.rotations, fit.translations, strict=True):
        projected, by_camera, by_pose = _project(pattern, fit, rotation, translation, lens)
        residuals.append(view.points_px - projected)
        # The poses are estimated too: the Schur complement removes their share of the information.
        across = by_camera.T @ by_pose
        normal += by_camera.T @ by_camera - across @ np.linalg.pinv(by_pose.T @ by_pose) @ across.T
    residuals_px = np.array(residuals)
    surplus = max(1, residuals_px.size - len(lens.free) - 6 * len(views))
    covariance = np.linalg.pinv(normal) * (residuals_px**2).sum() / surplus
    deviations = dict(zip(lens.free, np.sqrt(np.maximum(np.diag(covariance), 0)).tolist(), strict=True))
    return Solution(_camera(fit, image_size, lens), views, residuals_px, deviations)


def _camera(fit: _Fit, image_size: tuple[int, int], lens: Lens) -> pycolmap.Camera:
    if lens.fisheye:
        model, coefficients = "OPENCV_FISHEYE", fit.coefficients[:4]
    elif lens.radial < 3:
        model, coefficients = "OPENCV", fit.coefficients[:4]
    else:
        model, coefficients = "FULL_OPENCV", np.append(fit.coefficients[:5], np.zeros(3))
    principal = colmap_from_opencv(fit.matrix[:2, 2])
    params = [fit.matrix[0, 0], fit.matrix[1, 1], *principal, *coefficients]
    camera = pycolmap.Camera(model=model, width=image_size[0], height=image_size[1], params=params)
    inside = (principal > 0).all() and (principal < np.array(image_size)).all()
    if not np.isfinite(params).all() or not inside or not 0 < max(params[:2]) < _MAX_FOCAL * max(image_size):
        raise LumenError(
            f"the images do not determine the camera (focal length {params[0]:.4g} px, centre at {principal[0]:.4g}, "
            f"{principal[1]:.4g}): check --spacing_mm and --row_spacing_mm, and add images with the pattern tilted by "
            "20 to 45 degrees in different directions and in all parts of the view"
        )
    return camera


def _fit_perspective(views: Sequence[View], pattern: Pattern, image_size: tuple[int, int], lens: Lens) -> _Fit:
    flags = cv2.CALIB_FIX_K4 | cv2.CALIB_FIX_K5 | cv2.CALIB_FIX_K6
    flags |= 0 if lens.tangential else cv2.CALIB_ZERO_TANGENT_DIST
    flags |= cv2.CALIB_FIX_K3 if lens.radial < 3 else 0
    flags |= cv2.CALIB_FIX_K2 if lens.radial < 2 else 0
    objects = [pattern.object_points_mm().astype(np.float32)[:, None]] * len(views)
    points = [view.points_px.astype(np.float32)[:, None] for view in views]
    # The type stubs require the outputs as inputs; None and zeros let OpenCV initialise them.
    matrix: Any = None
    try:
        _, matrix, coefficients, rotations, translations = cv2.calibrateCamera(
            objects, points, image_size, matrix, np.zeros(5), flags=flags, criteria=_ITERATIONS
        )
    except cv2.error as error:
        raise LumenError(f"OpenCV could not calibrate with these images: {error.err}") from error
    return _Fit(np.asarray(matrix), np.ravel(coefficients).astype(np.float64), rotations, translations)


def _fit_fisheye(views: Sequence[View], pattern: Pattern, image_size: tuple[int, int], lens: Lens) -> _Fit:
    flags = _fisheye_flag("USE_INTRINSIC_GUESS") | _fisheye_flag("RECOMPUTE_EXTRINSIC") | _fisheye_flag("FIX_SKEW")
    for number in range(lens.radial + 1, 5):
        flags |= _fisheye_flag(f"FIX_K{number}")
    objects = [pattern.object_points_mm()[None]] * len(views)
    points = [view.points_px[None] for view in views]
    best, best_error, problem = None, np.inf, ""
    for share in _FISHEYE_STARTS:
        focal = share * max(image_size)
        matrix = np.array([[focal, 0, image_size[0] / 2 - 0.5], [0, focal, image_size[1] / 2 - 0.5], [0, 0, 1.0]])
        try:
            error_px, matrix, coefficients, rotations, translations = cv2.fisheye.calibrate(
                objects, points, image_size, matrix, np.zeros((4, 1)), flags=flags, criteria=_ITERATIONS
            )
        except cv2.error as error:
            problem = f": {error.err}"
            continue
        if error_px < best_error:
            best = _Fit(np.asarray(matrix), np.ravel(coefficients).astype(np.float64), rotations, translations)
            best_error = error_px
    if best is None:
        raise LumenError(f"OpenCV could not calibrate a fisheye with these images{problem}; try without --fisheye")
    return best


def _fisheye_flag(name: str) -> int:
    # OpenCV 4 defines the fisheye flags in a separate module with other values; OpenCV 5 has one set for both.
    return int(getattr(cv2.fisheye, f"CALIB_{name}", None) or getattr(cv2, f"CALIB_{name}"))


def _project(
    pattern: Pattern, fit: _Fit, rotation: Float64s, translation: Float64s, lens: Lens
) -> tuple[Float64s, Float64s, Float64s]:
    """The pattern's points (N, 2), and their derivatives by the free parameters (2N, F) and by the pose (2N, 6)."""
    objects = pattern.object_points_mm()[:, None]
    if lens.fisheye:
        projected, jacobian = cv2.fisheye.projectPoints(objects, rotation, translation, fit.matrix, fit.coefficients)
        names = ["fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4", *["pose"] * 6]
    else:
        projected, jacobian = cv2.projectPoints(objects, rotation, translation, fit.matrix, fit.coefficients)
        names = [*["pose"] * 6, "fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3"]
    jacobian = np.asarray(jacobian, np.float64)
    by_camera = jacobian[:, [names.index(name) for name in lens.free]]
    by_pose = jacobian[:, [index for index, name in enumerate(names) if name == "pose"]]
    return np.asarray(projected, np.float64).reshape(-1, 2), np.asarray(by_camera), np.asarray(by_pose)
