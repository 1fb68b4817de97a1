"""Appearance of mucosa: colour variation at many scales, branching vessels, and a fine relief of the wet surface.

The colour and shading normal of every surface are stored in one texture atlas with its mip levels. Both are sampled
from solid noise at the 3D positions of the texels, so the atlas has no visible seams; vessels are drawn in millimetres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from data_prep.simulation.noise import SolidNoise
from data_prep.simulation.surface import Surface, cell_corners, unit
from data_prep.simulation.vessels import VesselPainter
from pipeline.arrays import Float32s

Colour = tuple[float, float, float]

MIP_LEVELS = 6
_MARGIN = 1 << (MIP_LEVELS - 1)
_BAND_ROWS = 128
_COARSE_CELLS = 7.0


@dataclass(frozen=True)
class Tissue:
    """Appearance of one kind of mucosa. Colours are linear RGB reflectances.

    Attributes:
        pale, rosy, deep: colours of thick pale tissue, normal tissue and well-perfused tissue.
        blotches: wavelength, mm, and strength of each octave of colour variation.
        relief: wavelength, mm, and RMS slope of each octave of the surface relief.
        wrinkles: wavelength, mm, and slope of fine parallel wrinkles, if any.
        vessels_per_cm2: number of vessel trees that start per square centimetre.
        vessel_width_mm: width of a tree at its start.
        vessel_strength: optical density of a wide vessel.
        wetness: brightness of highlights.
        texel_mm: texel size at the finest level.
    """

    pale: Colour
    rosy: Colour
    deep: Colour
    blotches: tuple[tuple[float, float], ...]
    relief: tuple[tuple[float, float], ...]
    wrinkles: tuple[float, float]
    vessels_per_cm2: float
    vessel_width_mm: float
    vessel_strength: float
    wetness: float
    texel_mm: float


TISSUES = {
    "colon": Tissue(
        pale=(0.74, 0.43, 0.30),
        rosy=(0.66, 0.27, 0.18),
        deep=(0.52, 0.15, 0.09),
        blotches=((32.0, 0.5), (11.0, 0.3), (4.0, 0.12), (1.6, 0.05)),
        relief=((5.0, 0.05), (2.2, 0.035), (0.9, 0.015)),
        wrinkles=(1.4, 0.03),
        vessels_per_cm2=0.35,
        vessel_width_mm=0.34,
        vessel_strength=0.55,
        wetness=1.1,
        texel_mm=0.11,
    ),
    "sinus": Tissue(
        pale=(0.74, 0.46, 0.37),
        rosy=(0.62, 0.22, 0.14),
        deep=(0.48, 0.11, 0.07),
        blotches=((18.0, 0.75), (7.0, 0.4), (2.6, 0.2), (1.0, 0.11)),
        relief=((2.6, 0.05), (1.1, 0.07), (0.5, 0.06)),
        wrinkles=(0.9, 0.08),
        vessels_per_cm2=1.6,
        vessel_width_mm=0.15,
        vessel_strength=0.9,
        wetness=3.0,
        texel_mm=0.055,
    ),
}


@dataclass(frozen=True)
class Atlas:
    """Textures of all surfaces, with all mip levels in one image.

    Attributes:
        colour: (H, W, 3) uint16, linear RGB reflectance x 65535.
        normal: (H, W, 3) int16, world-space shading normal x 32767.
        corners: (T, 3, 2) float32, finest-level pixel (OpenCV's convention) of each triangle's corners.
        texel_mm: (T,) float32, texel size in the triangle.
        level_offsets: (MIP_LEVELS, 2) float32, origin of each level.
    """

    colour: npt.NDArray[np.uint16]
    normal: npt.NDArray[np.int16]
    corners: Float32s
    texel_mm: Float32s
    level_offsets: Float32s


def paint(surfaces: Sequence[Surface], tissue: Tissue, rng: np.random.Generator, detail: float) -> Atlas:
    """Create the atlas; `detail` > 1 means larger texels, for small images."""
    fields = _TextureFields(tissue, rng)
    per_cell = [max(1, round(_cell_mm(surface) / (tissue.texel_mm * detail))) for surface in surfaces]
    tiles, corners = [], []
    top = 0
    for surface, samples in zip(surfaces, per_cell, strict=True):
        tiles.append([_with_margin(tile) for tile in fields.texels(surface, samples)])
        rows, columns = surface.points_mm.shape[:2]
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) * samples
        corners.append(cell_corners((grid + (_MARGIN, top + _MARGIN)).astype(np.float32)))
        top += tiles[-1][0].shape[0]
    colour, offsets = _mip_atlas([tile[0] for tile in tiles])
    normal, _ = _mip_atlas([tile[1] for tile in tiles])
    texel_mm = [_triangle_texel_mm(*pair) for pair in zip(surfaces, per_cell, strict=True)]
    return Atlas(colour, normal, np.concatenate(corners), np.concatenate(texel_mm), offsets)


class _TextureFields:
    """One sample of the random fields, shared by all surfaces of an anatomy."""

    def __init__(self, tissue: Tissue, rng: np.random.Generator) -> None:
        self._tissue = tissue
        self._rng = rng
        self._blotches = [(length, SolidNoise(rng, length), strength) for length, strength in tissue.blotches]
        relief = [(length, SolidNoise(rng, length), _height_mm(length, slope)) for length, slope in tissue.relief]
        self._relief = relief
        length, slope = tissue.wrinkles
        self._wrinkles = SolidNoise(rng, length, stretch=(1.0, 4.0, 1.0)), _height_mm(length, slope)
        self._wrinkled = SolidNoise(rng, 14.0)

    def texels(self, surface: Surface, per_cell: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int16]]:
        """Colour and shading normal (rows, columns, 3) of a surface's texels, in the atlas's encoding."""
        rows, columns = (np.array(surface.points_mm.shape[:2]) - 1) * per_cell + 1
        colour = np.empty((rows, columns, 3), dtype=np.uint16)
        normal = np.empty((rows, columns, 3), dtype=np.int16)
        vessels = self._vessels(surface, per_cell)
        cell_mm = _cell_mm(surface)
        redness = self._redness(surface.points_mm, cell_mm, coarse=True)
        slope = self._slope(surface.points_mm, cell_mm, coarse=True)
        for start in range(0, rows, _BAND_ROWS):
            band = slice(start, min(start + _BAND_ROWS, rows))
            points, normals, slopes, reds = (
                _refine(grid, per_cell, band) for grid in (surface.points_mm, surface.normals, slope, redness)
            )
            reds = reds + self._redness(points, cell_mm, coarse=False)
            slopes = slopes + self._slope(points, cell_mm, coarse=False)
            colour[band] = np.clip(self._colour(reds, vessels[band]), 0, 1) * 65535
            normal[band] = _tilted(unit(normals), slopes) * 32767
        return colour, normal

    def _vessels(self, surface: Surface, per_cell: int) -> Float32s:
        row_mm, column_mm = _texel_sizes_mm(surface, per_cell)
        columns = (surface.points_mm.shape[1] - 1) * per_cell + 1
        painter = VesselPainter(row_mm, column_mm, per_cell, columns)
        return painter.density(self._tissue.vessels_per_cm2, self._tissue.vessel_width_mm, self._rng)

    def _redness(self, points_mm: Float32s, cell_mm: float, *, coarse: bool) -> Float32s:
        """Colour variation from the octaves that the grid can (`coarse`) or cannot represent."""
        total = np.zeros(points_mm.shape[:-1], dtype=np.float32)
        for length_mm, field, strength in self._blotches:
            if (length_mm > _COARSE_CELLS * cell_mm) == coarse:
                total += strength * field.value(points_mm)
        return total

    def _slope(self, points_mm: Float32s, cell_mm: float, *, coarse: bool) -> Float32s:
        """Gradient (..., 3) of the relief from the octaves that the grid can (`coarse`) or cannot represent."""
        total = np.zeros(points_mm.shape, dtype=np.float32)
        for length_mm, field, height_mm in self._relief:
            if (length_mm > _COARSE_CELLS * cell_mm) == coarse:
                total += height_mm * field.gradient(points_mm)
        if not coarse:
            wrinkles, height_mm = self._wrinkles
            where = np.clip(self._wrinkled.value(points_mm) / 1.5, 0, 1)[..., None]
            total += height_mm * where * wrinkles.gradient(points_mm)
        return total

    def _colour(self, redness: Float32s, vessels: Float32s) -> Float32s:
        tissue = self._tissue
        pale, rosy, deep = (np.array(colour, dtype=np.float32) for colour in (tissue.pale, tissue.rosy, tissue.deep))
        amount = np.tanh(redness)[..., None]
        colour = rosy + np.maximum(amount, 0) * (deep - rosy) + np.maximum(-amount, 0) * (pale - rosy)
        absorption = np.array([0.12, 0.75, 0.7], dtype=np.float32) * tissue.vessel_strength
        return colour * np.exp(-vessels[..., None] * absorption)


def _height_mm(wavelength_mm: float, slope: float) -> float:
    """The amplitude of noise with this wavelength and RMS slope."""
    return slope * wavelength_mm / (2 * np.pi)


def _tilted(normals: Float32s, slope: Float32s) -> Float32s:
    """Normals of a surface displaced by a height field with this gradient in space."""
    tangential = slope - normals * np.sum(slope * normals, axis=-1, keepdims=True)
    return unit(normals - tangential)


def _refine(grid: Float32s, per_cell: int, band: slice) -> Float32s:
    """Interpolate a grid (rows, columns, ...) linearly, `per_cell` samples per cell, and return the rows `band`."""
    columns = (grid.shape[1] - 1) * per_cell + 1
    x, y = np.meshgrid(np.arange(columns), np.arange(band.start, band.stop))
    x, y = (axis.astype(np.float32) / per_cell for axis in (x, y))
    return cv2.remap(grid, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32, copy=False)


def _texel_sizes_mm(surface: Surface, per_cell: int) -> tuple[Float32s, Float32s]:
    """Mean height and width of the texels in each row of cells, mm."""
    points = surface.points_mm
    along = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(axis=1)
    around = np.linalg.norm(np.diff(points, axis=1), axis=-1).mean(axis=1)[:-1]
    return np.maximum(along, 1e-3) / per_cell, np.maximum(around, 1e-3) / per_cell


def _cell_mm(surface: Surface) -> float:
    row_mm, column_mm = _texel_sizes_mm(surface, 1)
    return float(np.sqrt(np.median(row_mm) * np.median(column_mm)))


def _triangle_texel_mm(surface: Surface, per_cell: int) -> Float32s:
    corners = cell_corners(surface.points_mm)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    return np.maximum(np.sqrt(area) / per_cell, 1e-4).astype(np.float32)


def _with_margin(tile: npt.NDArray) -> npt.NDArray:
    """Wrap the margin around the tube, so that coarse mip levels do not mix neighbouring tiles of the atlas."""
    tile = np.concatenate([tile[:, -1 - _MARGIN : -1], tile, tile[:, 1 : 1 + _MARGIN]], axis=1)
    return np.pad(tile, ((_MARGIN, _MARGIN), (0, 0), (0, 0)), mode="edge")


def _mip_atlas(tiles: list[npt.NDArray]) -> tuple[npt.NDArray, Float32s]:
    """Stack tiles vertically, with their coarser levels to the right, from top to bottom."""
    coarsest = 1 << (MIP_LEVELS - 1)
    height = -(-sum(tile.shape[0] for tile in tiles) // coarsest) * coarsest
    width = -(-max(tile.shape[1] for tile in tiles) // coarsest) * coarsest
    atlas = np.zeros((height, width + width // 2, 3), dtype=tiles[0].dtype)
    top = 0
    for tile in tiles:
        atlas[top : top + tile.shape[0], : tile.shape[1]] = tile
        top += tile.shape[0]
    offsets = [(0, 0)]
    level, top = atlas[:, :width], 0
    for _ in range(1, MIP_LEVELS):
        level = cv2.resize(level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA)
        atlas[top : top + level.shape[0], width : width + level.shape[1]] = level
        offsets.append((width, top))
        top += level.shape[0]
    return atlas, np.array(offsets, dtype=np.float32)
