"""Render the light that reaches the sensor at a pose: ray casting, then shading of all pixels at once.

The lights are fibre ends around the lens, so crevices are dark, near walls are bright and highlights move with the
view. Light scatters below the surface, red farthest: the diffuse part uses a blurred relief, and its terminator is
softer in red than in blue. The wet film uses the sharp relief.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pycolmap

from data_prep.simulation.endoscope import ContentArea, directions_from_img, pixel_centres
from data_prep.simulation.mucosa import MIP_LEVELS, Atlas
from data_prep.simulation.scene import Hits, SurfaceScene
from pipeline.arrays import Float32s, Float64s

EDGE_PX = 1.5
_LOOKUP_COLUMNS = 1024
_LIGHTS_CAM_MM = np.array([[-0.9, -0.55, 0.0], [0.0, -1.1, 0.0], [0.95, -0.45, 0.0]])
_WRAP = np.array([0.30, 0.12, 0.08], dtype=np.float32)
_BOUNCE = np.array([0.40, 0.16, 0.12], dtype=np.float32)
_SOFTER_LEVELS = 2.0
_SHEEN = 0.003


@dataclass(frozen=True)
class Light:
    """Light at the sensor for one frame.

    Attributes:
        radiance: (H, W, 3) float32, linear RGB, 0 outside the content area; 1 = white at unit exposure and 10 mm.
        depth_mm: (H, W) float32, along the optical axis to the pixel centre; 0 = none or outside the content area.
    """

    radiance: Float32s
    depth_mm: Float32s


class Renderer:
    """Renders one anatomy through one endoscope."""

    def __init__(
        self, scene: SurfaceScene, atlas: Atlas, wetness: float, camera: pycolmap.Camera, content: ContentArea
    ) -> None:
        """`wetness` scales the highlights; 0 = matt."""
        self._scene = scene
        self._atlas = atlas
        self._wetness = np.float32(wetness)
        self._size = (camera.height, camera.width)
        points = pixel_centres(camera.width, camera.height)
        distance_px = content.signed_distance_px(points)
        self._shown = np.flatnonzero(distance_px < EDGE_PX)
        self._inside = content.contains(points[self._shown])
        self._directions = directions_from_img(camera, points[self._shown]).astype(np.float32)
        self._pixel_rad = float(1 / np.mean(camera.params[:2]))
        self._spread = np.linalg.norm(self._directions, axis=1)
        self._beam = (1 / self._spread) ** 1.2

    def render(self, cam_from_world: Float64s) -> Light:
        """Render the light of a frame at pose `cam_from_world` (3, 4)."""
        world_from_cam = cam_from_world[:, :3].T
        centre = -world_from_cam @ cam_from_world[:, 3]
        directions = np.einsum("nj,ij->ni", self._directions, world_from_cam.astype(np.float32))
        hits = self._scene.cast(centre, directions)
        seen = np.isfinite(hits.distance)
        distance = np.where(seen, hits.distance, 1e3).astype(np.float32)
        points = centre.astype(np.float32) + distance[:, None] * directions
        radiance = self._shade(centre, points, directions, distance, hits, cam_from_world)
        radiance *= seen[:, None]
        depth = np.where(seen & self._inside, hits.distance, 0)
        return Light(self._image(radiance), self._image(depth))

    def _shade(
        self, centre: Float64s, points: Float32s, directions: Float32s, distance: Float32s, hits: Hits, pose: Float64s
    ) -> Float32s:
        view = -directions / self._spread[:, None]
        pixel, level = self._footprint(hits, distance)
        colour = self._look_up(self._atlas.colour, pixel, level) / np.float32(65535)
        sharp = _normalised(self._look_up(self._atlas.normal, pixel, level))
        soft = _normalised(self._look_up(self._atlas.normal, pixel, level + _SOFTER_LEVELS))
        diffuse = np.zeros_like(points)
        film = np.zeros(len(points), dtype=np.float32)
        for light_cam in _LIGHTS_CAM_MM:
            light = centre + pose[:, :3].T @ light_cam
            to_light = light.astype(np.float32) - points
            square = np.einsum("ij,ij->i", to_light, to_light)
            to_light /= np.sqrt(square)[:, None]
            power = self._beam * (100.0 / len(_LIGHTS_CAM_MM)) / np.maximum(square, 1.0)
            power *= self._scene.is_lit(points, light)
            facing = np.einsum("ij,ij->i", soft, to_light)[:, None]
            diffuse += power[:, None] * np.clip((facing + _WRAP) / (1 + _WRAP), 0, None) ** 1.1
            film += power * self._wetness * _gloss(sharp, view + to_light)
        direct = colour * diffuse
        nearness = np.minimum(1, np.median(distance) / distance)[:, None]
        return direct + colour * nearness * self._indirect_light(direct) + film[:, None]

    def _footprint(self, hits: Hits, distance: Float32s) -> tuple[Float32s, Float32s]:
        """Atlas position (N, 2) of each hit, and the mip level (N,) whose texels match the pixel size."""
        pixel = np.einsum("nk,nkc->nc", hits.weights, self._atlas.corners[hits.triangle])
        size_mm = distance * self._pixel_rad * 1.4
        level = np.log2(size_mm / self._atlas.texel_mm[hits.triangle])
        return pixel, np.clip(level, 0, MIP_LEVELS - 1)

    def _look_up(self, texture: npt.NDArray, pixel: Float32s, level: Float32s) -> Float32s:
        """Texture values (N, 3) float32 at atlas positions (N, 2), interpolated between the two nearest mip levels."""
        level = np.clip(level, 0, MIP_LEVELS - 1.001)
        low = np.floor(level)
        blend = (level - low)[:, None]
        return (1 - blend) * self._at_level(texture, pixel, low) + blend * self._at_level(texture, pixel, low + 1)

    def _at_level(self, texture: npt.NDArray, pixel: Float32s, level: Float32s) -> Float32s:
        shrink = np.exp2(-level)[:, None]
        place = (pixel + np.float32(0.5)) * shrink - np.float32(0.5) + self._atlas.level_offsets[level.astype(np.intp)]
        # cv2.remap limits the sides of its output to 32767, so the list of pixels is folded into rows.
        rows = -(-len(place) // _LOOKUP_COLUMNS)
        folded = np.zeros((rows * _LOOKUP_COLUMNS, 2), dtype=np.float32)
        folded[: len(place)] = place
        columns, lines = np.ascontiguousarray(folded.T).reshape(2, rows, _LOOKUP_COLUMNS)
        values = cv2.remap(texture, columns, lines, cv2.INTER_LINEAR)
        return values.reshape(-1, 3)[: len(place)].astype(np.float32)

    def _indirect_light(self, direct: Float32s) -> Float32s:
        """Approximate interreflection: light (N, 3) from the surrounding tissue, reddish, also in crevices."""
        image = cv2.resize(self._image(np.minimum(direct, 4.0)), None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(image, (0, 0), self._size[0] / 8 / 9)
        full = cv2.resize(blurred, self._size[::-1], interpolation=cv2.INTER_LINEAR)
        return full.reshape(-1, 3)[self._shown] * _BOUNCE

    def _image(self, values: npt.NDArray) -> Float32s:
        image = np.zeros((self._size[0] * self._size[1], *values.shape[1:]), dtype=np.float32)
        image[self._shown] = values
        return image.reshape(*self._size, *values.shape[1:])


def _gloss(normals: Float32s, halfway: Float32s) -> Float32s:
    """Blinn-Phong reflection of the wet film: a broad sheen (exponent 32) and a sharp highlight (exponent 512)."""
    cosine = np.einsum("ij,ij->i", normals, _normalised(halfway))
    power = np.clip(cosine, 0, 1)
    for _ in range(5):
        power = power * power
    sheen = _SHEEN * power
    for _ in range(4):
        power = power * power
    return sheen + power


def _normalised(vectors: Float32s) -> Float32s:
    return vectors / np.maximum(np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None], 1e-6)
