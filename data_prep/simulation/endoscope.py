"""Endoscope optics: camera model and content area of the video frame."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Bytes, Float64s
from pipeline.conventions import colmap_from_index
from pipeline.errors import LumenError

ContentShape = Literal["round", "octagonal", "rounded_rectangle", "full"]

_PINHOLE_FIELD_DEG = 85.0
_FISHEYE_FIELD_DEG = 125.0
# Typical of wide endoscopes: more barrel distortion than the equidistant model, monotonic to 90 degrees.
_FISHEYE_COEFFICIENTS = (-0.036, 0.011, -0.0085, 0.0016)


@dataclass(frozen=True)
class ContentArea:
    """The part of the video frame that shows tissue.

    Attributes:
        shape: shape of its outline.
        width, height: frame size, px.
    """

    shape: ContentShape
    width: int
    height: int

    @property
    def centre_px(self) -> tuple[float, float]:
        """In COLMAP's convention; slightly off the frame centre, as in real endoscopes."""
        if self.shape == "full":
            return self.width / 2, self.height / 2
        if self.shape == "round":
            return self.width * 0.507, self.height * 0.495
        return self.width * 0.565, self.height * 0.497

    @property
    def radius_px(self) -> float:
        """Distance from the centre to the farthest point of the outline."""
        if self.shape == "round":
            return 0.48 * min(self.height, self.width)
        return float(np.hypot(*self._half_size_px()))

    def signed_distance_px(self, points_px: Float64s) -> Float64s:
        """Distance of points (N, 2), COLMAP px, to the outline: (N,), negative inside."""
        offset = points_px - self.centre_px
        if self.shape == "full":
            return np.full(len(points_px), -1e9)
        if self.shape == "round":
            return np.linalg.norm(offset, axis=-1) - self.radius_px
        half = np.array(self._half_size_px())
        if self.shape == "octagonal":
            box = np.max(np.abs(offset) - half, axis=-1)
            corner = (np.sum(np.abs(offset), axis=-1) - np.sum(half) + 0.27 * self.height) / np.sqrt(2)
            return np.maximum(box, corner)
        rounding = 0.12 * self.height
        beyond = np.abs(offset) - half + rounding
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
        return outside + np.minimum(np.max(beyond, axis=-1), 0) - rounding

    def contains(self, points_px: Float64s) -> Bools:
        """Whether points (N, 2), COLMAP px, lie inside the outline and the frame."""
        in_frame = np.all((points_px >= 0) & (points_px < (self.width, self.height)), axis=-1)
        return in_frame & (self.signed_distance_px(points_px) <= 0)

    def mask(self) -> Bytes:
        """(height, width) uint8, 255 where the pixel centre is inside."""
        inside = self.contains(pixel_centres(self.width, self.height))
        return (inside.reshape(self.height, self.width) * 255).astype(np.uint8)

    def _half_size_px(self) -> tuple[float, float]:
        if self.shape == "full":
            return self.width / 2, self.height / 2
        return 0.405 * self.width, 0.475 * self.height


def make_camera(content: ContentArea, fisheye: bool) -> pycolmap.Camera:
    """A camera with a field of view across the content area of 85 (PINHOLE) or 125 degrees (OPENCV_FISHEYE)."""
    centre_x, centre_y = content.centre_px
    principal = [centre_x + 0.004 * content.width, centre_y - 0.003 * content.height]
    half = np.deg2rad((_FISHEYE_FIELD_DEG if fisheye else _PINHOLE_FIELD_DEG) / 2)
    if not fisheye:
        focal = content.radius_px / np.tan(half)
        return _camera("PINHOLE", content, [focal, focal * 1.003, *principal])
    powers = np.power(half, np.arange(2, 10, 2))
    focal = content.radius_px / (half * (1 + np.dot(_FISHEYE_COEFFICIENTS, powers)))
    return _camera("OPENCV_FISHEYE", content, [focal, focal * 1.003, *principal, *_FISHEYE_COEFFICIENTS])


def pixel_centres(width: int, height: int) -> Float64s:
    """COLMAP coordinates (width x height, 2) of all pixel centres, row by row."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return colmap_from_index(np.stack([columns, rows], axis=-1).reshape(-1, 2))


def directions_from_img(camera: pycolmap.Camera, points_px: Float64s) -> Float64s:
    """Viewing directions (N, 3) of COLMAP pixels (N, 2), in the camera frame with z = 1."""
    normalised = camera.cam_from_img(points_px)
    if normalised is None:
        raise LumenError(
            f"the {camera.model_name} camera has no viewing directions for these pixels: check its parameters"
        )
    return np.concatenate([normalised, np.ones((len(normalised), 1))], axis=-1)


def _camera(model: str, content: ContentArea, params: list[float]) -> pycolmap.Camera:
    return pycolmap.Camera(
        model=model, width=content.width, height=content.height, params=[float(value) for value in params], camera_id=1
    )
