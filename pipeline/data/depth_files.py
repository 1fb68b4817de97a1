"""Depth maps of a sequence: depth along the optical axis at each pixel of a frame, in integer steps of known length."""

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.arrays import AnyFloats
from pipeline.data.images import write_image
from pipeline.errors import LumenError, explain_os_errors, require
from pipeline.outputs.files import read_yaml, write_yaml
from pipeline.paths import AnyPath

Steps = npt.NDArray[np.uint16]

# The largest number of steps that 16 bits can store.
MOST_STEPS = 65535

_KEY = "world_units_per_step"


def read_depth_scale(path: AnyPath) -> float:
    """Read from `scale.yaml` the length of one step of its depth maps, in world units of the poses.

    Raises:
        LumenError: if the file is missing or damaged, or the length is not above 0.
    """
    path = Path(path)
    content = read_yaml(path)
    value = content.get(_KEY) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise LumenError(f"{path} needs {_KEY}, a number above 0: the length of a depth step in units of motion.yaml")
    return float(value)


def write_depth_scale(path: Path, world_units_per_step: float) -> None:
    """Write the file that `read_depth_scale` reads."""
    write_yaml(path, {_KEY: world_units_per_step})


def read_depth(path: AnyPath, size: tuple[int, int]) -> Steps:
    """Read a depth map.

    Args:
        path: a PNG.
        size: width and height of the frames, px.

    Returns:
        (H, W) uint16, steps; 0 = unknown.

    Raises:
        LumenError: if it is missing or damaged, or has the wrong size or type.
    """
    path = Path(path)
    require(path.exists(), f"{path} is missing: every registered frame needs a depth map; create the data again")
    with explain_os_errors("read", path):
        data = np.frombuffer(path.read_bytes(), np.uint8)
    steps = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if steps is None:
        raise LumenError(f"{path} is damaged or not an image: create the data again")
    if steps.dtype != np.uint16 or steps.ndim != 2:
        raise LumenError(f"{path} is not a depth map: it must be a PNG with one channel of 16 bits")
    if (steps.shape[1], steps.shape[0]) != size:
        raise LumenError(
            f"{path} has {steps.shape[1]}x{steps.shape[0]} pixels, the frames have {size[0]}x{size[1]}: "
            "a depth map must have the size of its frame"
        )
    return np.asarray(steps, np.uint16)


def write_depth(path: Path, depth: AnyFloats, world_units_per_step: float) -> None:
    """Write a depth map (H, W) in world units. Depths that are not finite or exceed 16 bits become unknown.

    Raises:
        LumenError: if it cannot be written.
    """
    steps = np.round(depth / world_units_per_step)
    known = np.isfinite(steps) & (steps > 0) & (steps <= MOST_STEPS)
    _write_steps(path, np.where(known, steps, 0).astype(np.uint16))


def copy_depth(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Copy a depth map without the metadata in its file.

    Raises:
        LumenError: as `read_depth`, or if it cannot be written.
    """
    _write_steps(target, read_depth(source, size))


def _write_steps(path: Path, steps: Steps) -> None:
    write_image(path, steps, [cv2.IMWRITE_PNG_COMPRESSION, 1])
