"""Video processor: exposure, vignetting, lens softness, sensor noise, tone curve, black border and overlay text."""

import cv2
import numpy as np

from data_prep.simulation.endoscope import ContentArea, pixel_centres
from data_prep.simulation.renderer import EDGE_PX
from pipeline.arrays import Bytes, Float32s, Float64s

_BLACK_LEVEL = 2
_SHOT_NOISE = 5e-4
_READ_NOISE = 0.0025
_TONE_STEPS = 1 << 14
_TONE_RANGE = 4.0
_TOE, _KNEE, _SHOULDER = 0.02, 0.6, 0.38
_OVERLAY = ("DOE, JANE", "F 01.01.1970", "ID 0000000", "", "DR. NOBODY", "ENDO-1")


class VideoCamera:
    """Converts light into video frames."""

    def __init__(self, content: ContentArea, overlay_text: bool) -> None:
        width, height = content.width, content.height
        points = pixel_centres(width, height)
        distance_px = content.signed_distance_px(points).reshape(height, width)
        self._alpha = np.clip(0.5 - distance_px / EDGE_PX, 0, 1).astype(np.float32)[..., None]
        radius = np.linalg.norm(points - content.centre_px, axis=1).reshape(height, width) / content.radius_px
        self._vignette = (1 - 0.38 * np.clip(radius, 0, 1.2) ** 2.4).astype(np.float32)[..., None]
        self._softness_px = 0.75 * height / 512
        self._tone = _tone_curve()
        self._overlay = _overlay(distance_px) if overlay_text else None

    def black(self) -> Bytes:
        """A black frame (H, W, 3) BGR uint8."""
        return np.zeros((*self._alpha.shape[:2], 3), dtype=np.uint8)

    def expose(self, radiance: Float32s, gain: float, rng: np.random.Generator) -> Bytes:
        """Expose light (H, W, 3) linear RGB with a gain → (H, W, 3) BGR uint8."""
        soft = cv2.GaussianBlur(radiance, (0, 0), self._softness_px) if self._softness_px > 0.2 else radiance
        signal = soft * self._vignette * np.float32(gain)
        signal += self._glare(signal)
        noise = rng.standard_normal(signal.shape, dtype=np.float32)
        signal += noise * np.sqrt(_SHOT_NOISE * np.maximum(signal, 0) + _READ_NOISE**2)
        steps = np.clip(signal * np.float32(_TONE_STEPS / _TONE_RANGE), 0, _TONE_STEPS - 1).astype(np.int32)
        image = self._tone[steps] * self._alpha + _BLACK_LEVEL * (1 - self._alpha)
        image = (image[..., ::-1] + 0.5).astype(np.uint8)
        if self._overlay is not None:
            image = np.maximum(image, self._overlay[..., None])
        return np.ascontiguousarray(image)

    def _glare(self, signal: Float32s) -> Float32s:
        """Stray light around overexposed pixels."""
        height, width = signal.shape[:2]
        small = cv2.resize(np.minimum(signal, 3.0), (width // 8, height // 8), interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(small, (0, 0), height / 8 / 14)
        return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(0.010)


def exposure_gains(
    brightness: Float64s, timestamps_s: Float64s, change_at_s: float, change: float, target: float = 0.24
) -> Float64s:
    """Gains of a delayed auto-exposure, with one change by the operator.

    Args:
        brightness: (N,) mean radiance at the meter.
        timestamps_s: (N,).
        change_at_s: start of the operator's change, which takes 0.2 s.
        change: factor of the change.
        target: target of the metered signal.

    Returns:
        (N,) gains.
    """
    wanted = np.log(target / np.maximum(brightness, 1e-6))
    smoothed = np.empty_like(wanted)
    current = wanted[0]
    previous_s = timestamps_s[0]
    for index, (aim, time_s) in enumerate(zip(wanted, timestamps_s, strict=True)):
        current += (aim - current) * (1 - np.exp(-(time_s - previous_s) / 0.3))
        smoothed[index] = current
        previous_s = time_s
    ramp = np.clip((timestamps_s - change_at_s) / 0.2, 0, 1)
    return np.exp(smoothed + ramp * np.log(change))


def _tone_curve() -> Float32s:
    """Map the signal from 0 to _TONE_RANGE to 0-255: a toe that deepens shadows, a shoulder, then the sRGB curve."""
    signal = np.arange(_TONE_STEPS) / _TONE_STEPS * _TONE_RANGE
    contrasty = signal**2 / (signal + _TOE)
    over = np.maximum(contrasty - _KNEE, 0)
    bent = np.minimum(contrasty, _KNEE) + (1 - _KNEE) * (1 - np.exp(-over / _SHOULDER))
    curve = np.where(bent <= 0.0031308, 12.92 * bent, 1.055 * np.maximum(bent, 1e-9) ** (1 / 2.4) - 0.055)
    return (255 * curve).astype(np.float32)


def _overlay(distance_px: Float64s) -> Bytes:
    """Overlay text of a recorder, (H, W) uint8, outside the content area."""
    height, width = distance_px.shape
    layer = np.zeros((height, width), dtype=np.uint8)
    size = max(height / 1200, 0.25)
    for line, text in enumerate(_OVERLAY):
        at = (int(0.008 * width) + 1, int((0.05 + 0.042 * line) * height) + 4)
        cv2.putText(layer, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 235, 1, cv2.LINE_AA)
    layer[distance_px < 4] = 0
    return layer
