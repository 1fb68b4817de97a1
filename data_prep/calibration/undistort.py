"""Undistort frames to a PINHOLE camera that keeps the whole content area, with one precomputed remap.

pycolmap projects and unprojects; this module determines where a model is invertible and which pinhole camera covers
the content.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import pycolmap
from cv2.typing import MatLike as Image
from cv2.typing import MatLike as Mask

from pipeline.arrays import Float32s, Float64s, Ints
from pipeline.conventions import colmap_from_index, opencv_from_colmap
from pipeline.errors import LumenError

_PINHOLE_MODELS = ("SIMPLE_PINHOLE", "PINHOLE")
# With zero coefficients these models are pinholes; a fisheye with zeros is not.
_PERSPECTIVE_MODELS = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
# Beyond this angle from the axis a pinhole image is impossible.
_MAX_HALF_ANGLE_DEG = 89.0
_ANGLE_STEP_DEG = 0.05
_AZIMUTHS = 720
# The model is about to fold where the image radius grows at less than this fraction of its growth at the centre.
_MIN_RADIAL_SPEED = 0.05
# Maximum reprojection error of a correctly inverted ray.
_MAX_INVERSION_ERROR_PX = 0.01
# Outside every image, for cv2.remap's constant border.
_OUTSIDE_PX = -16.0


class FieldOfView(NamedTuple):
    """Angles of view across the content area, degrees: through its middle row, its middle column, and the largest."""

    horizontal: float
    vertical: float
    largest: float


@dataclass(frozen=True)
class Undistortion:
    """Maps from the frames of a camera to the frames of `camera`, which has no distortion.

    Attributes:
        camera: the PINHOLE camera of the result, of equal image size; square pixels unless the input has none.
        map_x, map_y: (H, W) float32, px in OpenCV's convention: source of each pixel of the result; far outside the
            image if the pixel shows no content.
        is_identity: the input is already a pinhole, so images are returned unchanged.
        field_of_view_before: of the input's content area, where the model is valid and rays point forwards.
        field_of_view_after: of the content area in the result.
        content_kept: share of the content's pixels in the result, in [0, 1].
    """

    camera: pycolmap.Camera
    map_x: Float32s
    map_y: Float32s
    is_identity: bool
    field_of_view_before: FieldOfView
    field_of_view_after: FieldOfView
    content_kept: float

    def image(self, bgr: Image) -> Image:
        """Undistort a frame, (H, W, 3) or (H, W) uint8, with bilinear interpolation; pixels without content are 0.

        Raises:
            ValueError: if its size differs from the camera's.
        """
        self._check_size(bgr)
        if self.is_identity:
            return bgr
        return _remap(bgr, self.map_x, self.map_y, cv2.INTER_LINEAR)

    def mask(self, mask: Mask) -> Mask:
        """Undistort a mask, (H, W) uint8, by nearest neighbour, which keeps its values; pixels without content are 0.

        Raises:
            ValueError: if its size differs from the camera's.
        """
        self._check_size(mask)
        if self.is_identity:
            return mask
        return _remap(mask, self.map_x, self.map_y, cv2.INTER_NEAREST)

    def _check_size(self, image: Image) -> None:
        expected = (self.camera.height, self.camera.width)
        if image.shape[:2] != expected:
            raise ValueError(f"an image of (height, width) {image.shape[:2]} for a camera of {expected}")


def plan_undistortion(
    camera: pycolmap.Camera, content_mask: Mask, max_field_of_view_deg: float = 150.0
) -> Undistortion:
    """Compute the undistortion to a pinhole camera that shows the whole content area with the least loss of resolution.

    The image size does not change. The focal length is the camera's (mean) focal length, or, if that is shorter, the
    longest one that keeps every content pixel inside the image. The principal point moves only as much as the content
    requires. A pinhole camera and its images are returned unchanged.

    Args:
        camera: any model with a pinhole-like axis, in COLMAP's pixel convention.
        content_mask: (H, W) uint8, non-zero inside the content area.
        max_field_of_view_deg: content further than half of this from the optical axis is cut off, because it would
            occupy nearly all pixels of a pinhole image; 0 to 178.

    Raises:
        LumenError: if the mask is empty, the camera model is valid nowhere in it, or the limit is out of range.
        ValueError: if mask and camera differ in size.
    """
    if content_mask.shape != (camera.height, camera.width):
        raise ValueError(f"a mask of shape {content_mask.shape} for a camera of {camera.width}x{camera.height} pixels")
    if not 0 < max_field_of_view_deg <= 2 * _MAX_HALF_ANGLE_DEG:
        limit = 2 * _MAX_HALF_ANGLE_DEG
        raise LumenError(f"a maximum field of view of {max_field_of_view_deg:g}: choose above 0, at most {limit:.0f}")
    content = (content_mask > 0).astype(np.uint8)
    if not content.any():
        raise LumenError("the content area is empty: there is nothing to undistort")
    if camera.model_name in _PINHOLE_MODELS or (camera.model_name in _PERSPECTIVE_MODELS and camera.is_undistorted()):
        return _identity(camera, content)
    half_angle_deg = min(max_field_of_view_deg / 2, _valid_half_angle_deg(camera))
    kept = _keep_within(camera, content, half_angle_deg)
    rays = _rays(camera, _outline_index(kept))
    if len(rays) == 0:
        raise LumenError(f"the camera model {camera.model_name} is not valid in the content area: calibrate again")
    pinhole = _pinhole_for(camera, rays)
    map_x, map_y = _maps(camera, pinhole, kept, half_angle_deg)
    after = _field_of_view(camera, kept)
    # The outline of the whole content may be outside the valid part of the model and then spans less than the rest.
    before = FieldOfView(*np.maximum(_field_of_view(camera, content), after).tolist())
    return Undistortion(
        camera=pinhole,
        map_x=map_x,
        map_y=map_y,
        is_identity=False,
        field_of_view_before=before,
        field_of_view_after=after,
        content_kept=float(np.count_nonzero(kept) / np.count_nonzero(content)),
    )


def _remap(image: Image, map_x: Float32s, map_y: Float32s, interpolation: int) -> Image:
    # Float maps are as fast as OpenCV's fixed-point maps, which round positions to 1/32 px.
    remapped = cv2.remap(image, map_x, map_y, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(remapped, dtype=np.uint8)


def _identity(camera: pycolmap.Camera, content: Mask) -> Undistortion:
    focal_px = [camera.params[index] for index in camera.focal_length_idxs()]
    params = [focal_px[0], focal_px[-1], camera.principal_point_x, camera.principal_point_y]
    rows, columns = np.mgrid[: camera.height, : camera.width].astype(np.float32)
    field_of_view = _field_of_view(camera, content)
    return Undistortion(
        camera=_pinhole(camera, params),
        map_x=columns,
        map_y=rows,
        is_identity=True,
        field_of_view_before=field_of_view,
        field_of_view_after=field_of_view,
        content_kept=1.0,
    )


def _pinhole(camera: pycolmap.Camera, params: list[float]) -> pycolmap.Camera:
    return pycolmap.Camera(model="PINHOLE", width=camera.width, height=camera.height, params=params)


def _directions(azimuth_rad: Float64s, angle_rad: Float64s) -> Float64s:
    """Unit rays (..., 3) at an angle from the optical axis, azimuth 0 along x; the arguments broadcast."""
    x = np.sin(angle_rad) * np.cos(azimuth_rad)
    y = np.sin(angle_rad) * np.sin(azimuth_rad)
    return np.stack([x, y, np.cos(angle_rad) + 0 * azimuth_rad], axis=-1)


def _valid_half_angle_deg(camera: pycolmap.Camera) -> float:
    """The angle from the axis up to which the image radius grows with the angle of the ray, in every direction.

    A polynomial model fitted near the image centre folds back further out, where rays project into the middle of the
    image; some models have poles there.
    """
    angle_deg = np.arange(0.0, _MAX_HALF_ANGLE_DEG + _ANGLE_STEP_DEG, _ANGLE_STEP_DEG)
    azimuth_rad = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    rays = _directions(azimuth_rad[:, None], np.deg2rad(angle_deg)[None])
    pixels = _project(camera, rays.reshape(-1, 3)).reshape(len(azimuth_rad), len(angle_deg), 2)
    outwards = np.stack([np.cos(azimuth_rad), np.sin(azimuth_rad)], axis=-1)
    # Along the azimuth, not away from the principal point: beyond a pole the projection is on the opposite side.
    radius_px = ((pixels - pixels[:, :1]) * outwards[:, None]).sum(axis=-1)
    speed = np.diff(radius_px, axis=1)
    # This form counts NaN as folded.
    folds = ~(speed > _MIN_RADIAL_SPEED * speed[:, :1]).all(axis=0)
    return float(angle_deg[np.argmax(folds)] if folds.any() else angle_deg[-1])


def _project(camera: pycolmap.Camera, rays: Float64s) -> Float64s:
    """Project rays (N, 3) to pixels (N, 2) in COLMAP's convention; NaN if a ray has no projection."""
    return np.asarray(camera.img_from_cam(np.ascontiguousarray(rays)))


def _keep_within(camera: pycolmap.Camera, content: Mask, half_angle_deg: float) -> Mask:
    """The part of the content, (H, W) uint8 0 or 1, whose rays are at most `half_angle_deg` from the optical axis."""
    azimuth_rad = np.linspace(0, 2 * np.pi, _AZIMUTHS, endpoint=False)
    cone = _project(camera, _directions(azimuth_rad, np.full_like(azimuth_rad, np.deg2rad(half_angle_deg))))
    principal = np.array([camera.principal_point_x, camera.principal_point_y])
    index = np.argwhere(content)[:, ::-1]
    offset = colmap_from_index(index) - principal
    # The radius of the cone's image by azimuth is exact for every pixel; a filled polygon is exact only to one pixel.
    edge = cone - principal
    order = np.argsort(np.arctan2(edge[:, 1], edge[:, 0]))
    edge_azimuth_rad = np.arctan2(edge[order, 1], edge[order, 0])
    limit_px = np.interp(
        np.arctan2(offset[:, 1], offset[:, 0]), edge_azimuth_rad, np.hypot(*edge[order].T), period=2 * np.pi
    )
    kept = np.zeros_like(content)
    inside = index[np.hypot(*offset.T) <= limit_px]
    kept[inside[:, 1], inside[:, 0]] = 1
    return kept


def _outline_index(area: Mask) -> Ints:
    """Indices (N, 2) as (column, row) of an area's boundary pixels, including those at the image border."""
    inner = cv2.erode(area, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.argwhere(area != inner)[:, ::-1]


def _rays(camera: pycolmap.Camera, index: Ints) -> Float64s:
    """Unit rays (M, 3) through the centres of pixels (N, 2), without pixels that the model cannot invert; M <= N."""
    pixels = colmap_from_index(index)
    rays = np.asarray(camera.cam_ray_from_img(np.ascontiguousarray(pixels)))
    again = _project(camera, np.nan_to_num(rays))
    return rays[np.hypot(*(again - pixels).T) < _MAX_INVERSION_ERROR_PX]


def _pinhole_for(camera: pycolmap.Camera, rays: Float64s) -> pycolmap.Camera:
    points = rays[:, :2] / rays[:, 2:]
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.array([camera.width, camera.height])
    # Between the centres of the first and last pixels, so that all interpolation neighbours of content pixels exist.
    with np.errstate(divide="ignore"):
        longest = ((size - 1) / (high - low)).min()
    focal = min(longest, camera.mean_focal_length())
    principal = np.array([camera.principal_point_x, camera.principal_point_y])
    principal = np.clip(principal, 0.5 - focal * low, size - 0.5 - focal * high)
    return _pinhole(camera, [focal, focal, *principal])


def _maps(
    camera: pycolmap.Camera, pinhole: pycolmap.Camera, kept: Mask, half_angle_deg: float
) -> tuple[Float32s, Float32s]:
    """Position of each pixel of the pinhole image in the distorted one; `_OUTSIDE_PX` if it shows no kept content."""
    rows, columns = np.mgrid[: camera.height, : camera.width]
    pixels = colmap_from_index(np.stack([columns.ravel(), rows.ravel()], axis=-1))
    rays = np.column_stack([np.asarray(pinhole.cam_from_img(pixels)), np.ones(len(pixels))])
    source = opencv_from_colmap(_project(camera, rays))
    beyond = np.hypot(rays[:, 0], rays[:, 1]) > np.tan(np.deg2rad(half_angle_deg))
    source[beyond | ~np.isfinite(source).all(axis=1)] = _OUTSIDE_PX
    maps = np.clip(source, _OUTSIDE_PX, max(camera.width, camera.height) - _OUTSIDE_PX).astype(np.float32)
    map_x, map_y = (np.ascontiguousarray(maps[:, axis].reshape(kept.shape)) for axis in (0, 1))
    from_content = _remap(kept, map_x, map_y, cv2.INTER_NEAREST)
    map_x[from_content == 0] = _OUTSIDE_PX
    map_y[from_content == 0] = _OUTSIDE_PX
    return map_x, map_y


def _field_of_view(camera: pycolmap.Camera, area: Mask) -> FieldOfView:
    index = np.argwhere(area)[:, ::-1]
    middle = (index.min(axis=0) + index.max(axis=0)) // 2
    row = index[index[:, 1] == middle[1]]
    column = index[index[:, 0] == middle[0]]
    outline = _outline_index(area)
    outline = outline[:: max(1, len(outline) // _AZIMUTHS)]
    horizontal, vertical, largest = (_largest_angle_deg(_rays(camera, pixels)) for pixels in (row, column, outline))
    return FieldOfView(horizontal, vertical, max(horizontal, vertical, largest))


def _largest_angle_deg(rays: Float64s) -> float:
    """The largest angle between any two of the rays (N, 3)."""
    return float(np.rad2deg(np.arccos(np.clip(rays @ rays.T, -1, 1)).max(initial=0.0)))
