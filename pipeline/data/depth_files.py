"""Depth maps of a sequence: along the optical axis, at the pixels of its frames, as whole steps of a known length."""

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data.images import write_image
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.outputs.files import read_yaml, write_yaml
from pipeline.paths import AnyPath

Steps = npt.NDArray[np.uint16]

# The most that a step of 16 bits can count to.
MOST_STEPS = 65535

_KEY = "world_units_per_step"


def read_depth_scale(path: AnyPath) -> float:
    """Lengths of the poses' world per step of the depth maps beside a `scale.yaml`.

    Raises:
        LumenError: if it is missing or damaged, or the length is not above 0.
    """
    path = Path(path)
    content = read_yaml(path)
    value = content.get(_KEY) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise LumenError(f"{path} needs {_KEY}, a number above 0: how long a step of the depth maps is in motion.yaml")
    return float(value)


def write_depth_scale(path: Path, world_units_per_step: float) -> None:
    """Write what `read_depth_scale` reads."""
    write_yaml(path, {_KEY: world_units_per_step})


def read_depth(path: AnyPath, size: tuple[int, int]) -> Steps:
    """Read a depth map.

    Args:
        path: of a PNG.
        size: width and height of the frames, px.

    Returns:
        (H, W) uint16, steps; 0 = unknown.

    Raises:
        LumenError: if it is missing, damaged, or of another size or type.
    """
    path = Path(path)
    require(path.exists(), f"{path} is missing: every registered frame needs its depth; make the data again")
    with explain_os_errors("read", path):
        data = np.frombuffer(path.read_bytes(), np.uint8)
    steps = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if steps is None:
        raise LumenError(f"{path} is damaged, or no picture: make the data again")
    if steps.dtype != np.uint16 or steps.ndim != 2:
        raise LumenError(f"{path} is no depth map: it has to be a PNG of one channel of 16 bits")
    if (steps.shape[1], steps.shape[0]) != size:
        raise LumenError(
            f"{path} is of {steps.shape[1]}x{steps.shape[0]} pixels, the frames of {size[0]}x{size[1]}: "
            "a depth map has to be at the pixels of its frame"
        )
    return np.asarray(steps, np.uint16)


def write_depth(path: Path, depth: npt.NDArray[np.floating], world_units_per_step: float) -> None:
    """Write a depth map (H, W) in lengths of the poses' world; what is not finite or beyond 16 bits is unknown.

    Raises:
        LumenError: if it cannot be written.
    """
    steps = np.round(depth / world_units_per_step)
    known = np.isfinite(steps) & (steps > 0) & (steps <= MOST_STEPS)
    _write_steps(path, np.where(known, steps, 0).astype(np.uint16))


def copy_depth(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Copy a depth map without the metadata that its file may hold.

    Raises:
        LumenError: as `read_depth`, or if it cannot be written.
    """
    _write_steps(target, read_depth(source, size))


def _write_steps(path: Path, steps: Steps) -> None:
    write_image(path, steps, [cv2.IMWRITE_PNG_COMPRESSION, 1])
