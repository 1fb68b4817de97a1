"""Camera calibrations: read all common file formats as `pycolmap.Camera`, write YAML that OpenCV can read."""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from data_prep.calibration.opencv_storage import dump_storage, numbers_of, parse_storage
from pipeline.arrays import Float64s
from pipeline.conventions import colmap_from_opencv, opencv_from_colmap
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import write_bytes
from pipeline.paths import AnyPath

logger = logging.getLogger(__name__)

ADVICE = (
    "it is neither an OpenCV YAML, JSON or XML file, nor a COLMAP cameras.txt, "
    "nor the eight OPENCV_FISHEYE numbers fx fy cx cy k1 k2 k3 k4"
)

# Aliases in files of OpenCV's samples, ROS and user scripts; case and underscores are ignored.
_MATRIX_KEYS = ("cameramatrix", "k", "intrinsicmatrix", "mtx")
_DISTORTION_KEYS = (
    "distortioncoefficients",
    "distortioncoeffs",
    "distcoeffs",
    "distcoeff",
    "distcoefs",
    "d",
    "dist",
    "distortion",
)
_WIDTH_KEYS = ("imagewidth", "width")
_HEIGHT_KEYS = ("imageheight", "height")
_SIZE_KEYS = ("imagesize", "resolution", "imageresolution")

# Model names in files → the COLMAP model, or None if the number of coefficients decides.
_MODELS = {
    "pinhole": "PINHOLE",
    "none": "PINHOLE",
    "opencv": "OPENCV",
    "radtan": "OPENCV",
    "plumb_bob": "OPENCV",
    "full_opencv": "FULL_OPENCV",
    "rational_polynomial": "FULL_OPENCV",
    "opencv_fisheye": "OPENCV_FISHEYE",
    "fisheye": "OPENCV_FISHEYE",
    "equidistant": "OPENCV_FISHEYE",
}
_MAX_FILE_BYTES = 16 * 2**20
# Tolerance for a principal point outside the image, as a fraction of the image size; cropped video needs it.
_MAX_PRINCIPAL_OUTSIDE = 0.5
# No endoscope has a focal length outside these multiples of the larger image side; such numbers are not in pixels.
_FOCAL_RANGE = (0.05, 50.0)


class _Problem(Exception):
    """A problem inside a file; the reader adds the file name."""


def read_calibration(path: AnyPath, image_size: tuple[int, int]) -> pycolmap.Camera:
    """Read a camera calibration in any supported format.

    Supported are OpenCV FileStorage YAML, JSON or XML; ROS camera_info YAML; plain YAML or JSON with the same keys;
    COLMAP's cameras.txt with one camera; a text file with the eight OPENCV_FISHEYE numbers fx fy cx cy k1 k2 k3 k4. The
    last two give the principal point in COLMAP's convention (centre of the first pixel at 0.5, 0.5), the others in
    OpenCV's. Without a model name, the coefficients decide between PINHOLE, OPENCV and FULL_OPENCV; a fisheye model
    must be named.

    Args:
        path: the calibration file.
        image_size: (width, height) of the video, px.

    Returns:
        The camera at the video's size, in COLMAP's convention.

    Raises:
        LumenError: with the file name and the problem: missing, empty, not a calibration, not finite, implausible,
            another resolution, or several cameras.
    """
    path = Path(path)
    text = _read_text(path)
    try:
        camera, source = _parse(text, image_size)
        _check_plausible(camera)
    except (_Problem, ValueError) as problem:
        raise LumenError(f"calibration {path}: {problem}") from problem
    logger.info("calibration %s: %s, read as %s %s", path, source, camera.model_name, camera.params_to_string())
    return camera


def write_calibration(path: Path, camera: pycolmap.Camera, extra: Mapping[str, Any]) -> None:
    """Write a camera as OpenCV-style YAML, atomically; `read_calibration` and cv2.FileStorage read the same numbers.

    Args:
        path: the file to write, usually `calibration.yaml`.
        camera: PINHOLE, OPENCV, FULL_OPENCV or OPENCV_FISHEYE; its principal point is written in OpenCV's convention.
        extra: further entries such as `reprojection_error_px`: names (letters, digits, underscores) to numbers, text,
            lists of these, or (rows, cols) arrays.

    Raises:
        LumenError: if the file cannot be written, or OpenCV has no such camera model.
    """
    names = ("PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE")
    if camera.model_name not in names:
        raise LumenError(f"cannot write {path}: OpenCV has no {camera.model_name} camera, only {', '.join(names)}")
    fx, fy = camera.params[:2]
    cx, cy = opencv_from_colmap(camera.params[2:4])
    distortion = camera.params[4:] if len(camera.params) > 4 else np.zeros(4)
    content: dict[str, Any] = {
        "camera_model": camera.model_name,
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_matrix": np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]),
        "distortion_coefficients": distortion.reshape(-1, 1),
    }
    write_bytes(path, dump_storage({**content, **extra}).encode())


def _read_text(path: Path) -> str:
    if not path.exists():
        raise LumenError(f"calibration {path}: no such file")
    with explain_os_errors("read calibration", path):
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise LumenError(f"calibration {path}: {ADVICE} (it is larger than {_MAX_FILE_BYTES // 2**20} MiB)")
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LumenError(f"calibration {path}: {ADVICE} (it is not text)") from None
    if not text.strip():
        raise LumenError(f"calibration {path}: the file is empty")
    return text


def _parse(text: str, image_size: tuple[int, int]) -> tuple[pycolmap.Camera, str]:
    """The camera and the detected format."""
    without_comments = [line.partition("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in without_comments if line]
    if not lines:
        raise _Problem("the file holds only comments")
    tokens = re.split(r"[\s,]+", " ".join(lines).strip(" ,"))
    if all(_is_number(token) for token in tokens):
        return _camera_from_eight(tokens, image_size), (
            f"eight OPENCV_FISHEYE numbers (principal point in COLMAP's convention, size taken from the video: "
            f"{image_size[0]}x{image_size[1]} pixels)"
        )
    if re.match(r"\d+\s+[A-Z][A-Z0-9_]*\s+\d", lines[0]):
        return _camera_from_colmap(lines, image_size), "COLMAP cameras.txt"
    content = parse_storage(text)
    if not isinstance(content, Mapping):
        raise _Problem(ADVICE)
    return _camera_from_storage(content, image_size)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _camera_from_eight(tokens: list[str], image_size: tuple[int, int]) -> pycolmap.Camera:
    if len(tokens) != 8:
        raise _Problem(f"it holds {len(tokens)} numbers; OPENCV_FISHEYE has eight: fx fy cx cy k1 k2 k3 k4")
    return _make_camera("OPENCV_FISHEYE", image_size, [float(token) for token in tokens])


def _camera_from_colmap(lines: list[str], image_size: tuple[int, int]) -> pycolmap.Camera:
    rows = [line.split() for line in lines]
    if len(rows) > 1:
        found = "; ".join(" ".join(row[:2]) + " " + "x".join(row[2:4]) for row in rows)
        raise _Problem(f"it holds {len(rows)} cameras ({found}); keep only the line of the video's camera")
    _, model, width, height, *params = rows[0]
    if model not in pycolmap.CameraModelId.__members__ or model == "INVALID":
        raise _Problem(f"COLMAP has no camera model {model!r}")
    if not (width.isdecimal() and height.isdecimal()):
        raise _Problem(f"the image size {width} x {height} is not two whole numbers")
    _check_size((int(width), int(height)), image_size)
    return _make_camera(model, image_size, numbers_of(params))


def _camera_from_storage(content: Mapping[Any, Any], image_size: tuple[int, int]) -> tuple[pycolmap.Camera, str]:
    values = {re.sub(r"[^a-z0-9]", "", str(key).lower()): value for key, value in content.items()}
    matrix = _find(values, _MATRIX_KEYS)
    if matrix is None:
        keys = ", ".join(str(key) for key in list(content)[:12]) or "none"
        raise _Problem(f"it has no camera matrix (camera_matrix, cameraMatrix, K or mtx); its keys are {keys}")
    fx, fy, cx, cy = _read_matrix(matrix)
    size = _stated_size(values)
    if size is not None:
        _check_size(size, image_size)
    distortion = _numbers("distortion coefficients", _find(values, _DISTORTION_KEYS))
    stated = _stated_model(values)
    model, coefficients = _choose_model(stated, distortion)
    cx, cy = colmap_from_opencv(np.array([cx, cy]))
    camera = _make_camera(model, image_size, [fx, fy, cx, cy, *coefficients])
    why = f"model {stated} is named" if stated else f"no model is named, {len(distortion)} distortion coefficients"
    where = "" if size else f", no image size, so the video's {image_size[0]}x{image_size[1]} pixels are assumed"
    return camera, f"OpenCV's convention, {why}{where}"


def _find(values: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _numbers(name: str, value: Any) -> Float64s:
    try:
        return numbers_of(value)
    except ValueError as error:
        raise _Problem(f"the {name} {error}") from error


def _read_matrix(value: Any) -> tuple[float, float, float, float]:
    numbers = _numbers("camera matrix", value)
    if numbers.size != 9:
        raise _Problem(f"the camera matrix has {numbers.size} numbers instead of 3 x 3")
    (fx, skew, cx), (zero, fy, cy), last = numbers.reshape(3, 3)
    if np.isfinite(numbers).all() and (zero != 0 or not np.array_equal(last, [0, 0, 1])):
        raise _Problem("the camera matrix is not [fx 0 cx; 0 fy cy; 0 0 1]")
    if skew != 0 and math.isfinite(skew):
        raise _Problem(f"the camera matrix has skew {skew:g}, which is not supported")
    return fx, fy, cx, cy


def _stated_size(values: Mapping[str, Any]) -> tuple[int, int] | None:
    size = _numbers("image size", _find(values, _SIZE_KEYS))
    if size.size == 0:
        pair = [_find(values, _WIDTH_KEYS), _find(values, _HEIGHT_KEYS)]
        size = _numbers("image size", [number for number in pair if number is not None])
    if size.size == 0:
        return None
    if size.size != 2 or not np.isfinite(size).all() or (size < 1).any():
        raise _Problem(f"the image size {' x '.join(f'{number:g}' for number in size)} is not a width and a height")
    return int(size[0]), int(size[1])


def _check_size(size: tuple[int, int], image_size: tuple[int, int]) -> None:
    if size == image_size:
        return
    scale = image_size[0] / size[0]
    if abs(size[1] * scale - image_size[1]) < 1:
        advice = f"if the images are only scaled, multiply fx, fy, cx, cy by {scale:.6g} and correct the image size"
    else:
        advice = "the aspect ratio differs, so one of them is cropped: calibrate with images of the video's format"
    raise _Problem(f"it is for {size[0]}x{size[1]} pixels, the video has {image_size[0]}x{image_size[1]}; {advice}")


def _stated_model(values: Mapping[str, Any]) -> str | None:
    """The COLMAP model named in the file; None if it names none.

    `distortion_model` has priority, because many tools write `camera_model: pinhole` beside it for any lens.
    """
    for key in ("distortionmodel", "cameramodel", "model"):
        name = values.get(key)
        if name is None or str(name).strip() == "":
            continue
        model = _MODELS.get(str(name).strip().lower().replace(" ", "_"))
        if model is None:
            raise _Problem(f"unknown camera model {str(name)!r}; known are {', '.join(_MODELS)}")
        return model
    fisheye = str(values.get("fisheyemodel", 0)).strip().lower()
    return "OPENCV_FISHEYE" if fisheye in ("1", "true") else None


def _choose_model(stated: str | None, distortion: Float64s) -> tuple[str, list[float]]:
    """The COLMAP model and its coefficients after fx fy cx cy."""
    count = len(distortion)
    numbers = distortion.tolist()
    if stated == "OPENCV_FISHEYE":
        if count != 4:
            raise _Problem(f"a fisheye model has 4 distortion coefficients (k1 k2 k3 k4), the file has {count}")
        return stated, numbers
    if count not in (0, 4, 5, 8, 12, 14):
        raise _Problem(f"it has {count} distortion coefficients; OpenCV's models have 0, 4, 5 or 8")
    if any(numbers[8:]):
        raise _Problem("it has thin-prism or tilt coefficients, which are not supported; calibrate without them")
    if stated == "PINHOLE":
        if any(numbers):
            raise _Problem("it names PINHOLE, but its distortion is not zero; name the model (OPENCV, OPENCV_FISHEYE)")
        return stated, []
    if stated is None and not any(numbers):
        return "PINHOLE", []
    padded = (numbers + [0.0] * 8)[:8]
    if stated == "FULL_OPENCV" or any(padded[4:]) or (stated is None and count > 5):
        return "FULL_OPENCV", padded
    return "OPENCV", padded[:4]


def _make_camera(model: str, image_size: tuple[int, int], params: Iterable[float]) -> pycolmap.Camera:
    numbers = np.array(list(params), dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise _Problem("it holds numbers that are not finite")
    camera = pycolmap.Camera(model=model, width=image_size[0], height=image_size[1], params=numbers)
    if not camera.verify_params():
        raise _Problem(f"{model} has the parameters {camera.params_info}, the file has {len(numbers)} numbers")
    return camera


def _check_plausible(camera: pycolmap.Camera) -> None:
    if camera.is_spherical():
        raise _Problem(f"images of a {camera.model_name} camera cannot be undistorted to a pinhole image")
    size = np.array([camera.width, camera.height])
    focal_px = [camera.params[index] for index in camera.focal_length_idxs()]
    low, high = (share * max(size) for share in _FOCAL_RANGE)
    if min(focal_px) <= 0:
        raise _Problem(f"the focal length {min(focal_px):g} is not positive")
    if min(focal_px) < low or max(focal_px) > high:
        numbers = " and ".join(f"{number:g}" for number in focal_px)
        raise _Problem(f"the focal length {numbers} is not plausible for {size[0]}x{size[1]} pixels; is it in pixels?")
    principal = np.array([camera.principal_point_x, camera.principal_point_y])
    outside = np.maximum(-principal, principal - size) / size
    if outside.max() > _MAX_PRINCIPAL_OUTSIDE:
        x, y = principal
        raise _Problem(f"the principal point ({x:.1f}, {y:.1f}) is far outside the {size[0]}x{size[1]} image")
