"""Solid noise: smooth random fields in space, without seams or poles on any surface."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.arrays import AnyFloats, Float32s

_CHUNK = 1 << 14


class SolidNoise:
    """A random field with zero mean and unit variance around one wavelength: a sum of plane waves.

    Unlike lattice noise it is infinitely differentiable and has an analytic gradient, as bump mapping requires.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        wavelength_mm: float,
        waves: int = 24,
        stretch: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """Sample the waves. `stretch` > 1 lengthens the pattern along that world axis."""
        directions = rng.normal(size=(waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        wavelengths_mm = wavelength_mm * rng.uniform(0.7, 1.4, size=(waves, 1))
        self._wave_vectors = (2 * np.pi / wavelengths_mm * directions / np.asarray(stretch)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, size=waves).astype(np.float32)
        self._amplitude = np.float32(np.sqrt(2 / waves))

    def value(self, points_mm: AnyFloats) -> Float32s:
        """Value of the field at points (..., 3), mm → (...) float32."""
        flat = np.ascontiguousarray(points_mm, dtype=np.float32).reshape(-1, 3)
        out = np.zeros(len(flat), dtype=np.float32)
        for start in range(0, len(flat), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            for _, phase in self._phases_at(flat[chunk]):
                out[chunk] += np.cos(phase)
        return (out * self._amplitude).reshape(points_mm.shape[:-1])

    def gradient(self, points_mm: AnyFloats) -> Float32s:
        """Gradient of the field at points (..., 3), mm → (..., 3) float32, 1/mm."""
        flat = np.ascontiguousarray(points_mm, dtype=np.float32).reshape(-1, 3)
        out = np.zeros((3, len(flat)), dtype=np.float32)
        for start in range(0, len(flat), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            for wave, phase in self._phases_at(flat[chunk]):
                slope = np.sin(phase)
                for axis in range(3):
                    out[axis, chunk] -= slope * wave[axis]
        return (out.T * self._amplitude).reshape(points_mm.shape)

    def _phases_at(self, points_mm: Float32s) -> Iterator[tuple[Float32s, Float32s]]:
        """The vector of each wave and its phase (N,) at points (N, 3)."""
        # BLAS is slower for such thin products: on a busy machine its threads wait for each other.
        x, y, z = np.ascontiguousarray(points_mm.T)
        for wave, start in zip(self._wave_vectors, self._phases, strict=True):
            yield wave, x * wave[0] + y * wave[1] + z * wave[2] + start
