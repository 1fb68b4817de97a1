"""A camera that translates along a plane, with ground-truth correspondences between all frames."""

from collections.abc import Iterator

import numpy as np
import pycolmap

from pipeline.finder import Found
from sfm.dense_points import DenseLimits, Lattice
from sfm.mapping.triangulation import Limits, bearing_vectors
from synthetic_video import HEIGHT, WIDTH, make_camera, project

CELL = 16
FRAMES = 13
LIMITS = DenseLimits(Limits(error_px=2.0, views=4, angle_deg=1.5), depth_uncertainty=0.05)


class PlaneVideo:
    """A camera that translates along the plane z = 0 at a distance of 4, with ground-truth correspondences."""

    def __init__(self, noise_px: float = 0.0, outlier_share: float = 0.0) -> None:
        self.camera: pycolmap.Camera = make_camera()
        slides = np.linspace(-0.6, 0.6, FRAMES)
        self.poses = np.array([np.column_stack([np.eye(3), [slide, 0.3 * slide, 4.0]]) for slide in slides])
        self._noise_px, self._outlier_share = noise_px, outlier_share
        self._random = np.random.default_rng(0)
        self.asked: list[tuple[int, int]] = []

    def find(self, reference: int, pixels: np.ndarray) -> Iterator[Found]:
        self.asked.append((reference, len(pixels)))
        rays = bearing_vectors(self.camera, pixels)
        pose = self.poses[reference]
        on_plane = rays / rays[:, 2:] * pose[2, 3] - pose[:, 3]
        for row in range(FRAMES):
            if row == reference:
                continue
            places = project(self.camera, np.repeat(self.poses[row : row + 1], len(pixels), axis=0), on_plane)
            places += self._random.normal(0, self._noise_px, places.shape)
            lost = self._random.random(len(places)) < self._outlier_share
            places[lost] += self._random.uniform(20, 60, (lost.sum(), 2))
            inside = ((places > 0) & (places < [WIDTH, HEIGHT])).all(axis=1)
            yield row, np.flatnonzero(inside), places[inside].astype(np.float32)

    def lattice(self) -> Lattice:
        return Lattice(np.ones((HEIGHT, WIDTH), bool), FRAMES, CELL)
