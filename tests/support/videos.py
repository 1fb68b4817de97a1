"""Small test videos: a textured disc on black, and operations on its frames."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from cv2.typing import MatLike as Image

SIZE = (320, 240)


def tissue(seed: int = 0, size: tuple[int, int] = (640, 480)) -> Image:
    """A reddish texture, larger than a frame, with structure at several scales and dark folds."""
    rng = np.random.default_rng(seed)
    luma = np.full(size[::-1], 110.0)
    for sigma, strength in ((1, 40), (3, 60), (8, 150), (24, 500)):
        luma += strength * cv2.GaussianBlur(rng.standard_normal(size[::-1]), (0, 0), sigma)
    folds = np.zeros(size[::-1])
    for _ in range(14):
        centre = rng.uniform((0, 0), size).astype(int).tolist()
        axes = rng.uniform(15, 70, 2).astype(int).tolist()
        cv2.ellipse(folds, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 0.8), cv2.FILLED)
    luma *= 1.25 * (1 - cv2.GaussianBlur(folds, (0, 0), 3))
    image = np.dstack([0.55 * luma, 0.65 * luma, 1.25 * luma])
    return np.clip(image, 0, 235).astype(np.uint8)


def disc_mask(size: tuple[int, int] = SIZE, radius_px: float = 110) -> Image:
    """(H, W) uint8, 255 in a disc at the centre of the frame."""
    columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    inside = np.hypot(columns - size[0] / 2, rows - size[1] / 2) < radius_px
    return np.where(inside, 255, 0).astype(np.uint8)


def endoscopic_frames(count: int, seed: int = 0, step_px: int = 3, mask: Image | None = None) -> list[Image]:
    """Frames of a camera that moves over tissue, black outside the content area. All frames differ."""
    mask = disc_mask() if mask is None else mask
    height, width = mask.shape
    scene = tissue(seed)
    frames = []
    for i in range(count):
        column = 40 + round(90 * (1 + np.sin(i * step_px / 90))) + i % 2
        row = 40 + round(60 * (1 + np.cos(i * step_px / 70)))
        view = scene[row : row + height, column : column + width]
        frames.append(cv2.bitwise_and(view, view, mask=mask))
    return frames


def write_video(
    path: Path,
    frames: Iterable[Image],
    fps: int = 30,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode (H, W, 3) uint8 BGR frames.

    Args:
        path: the video file; its suffix selects the container.
        frames: frames of equal size.
        fps: frames per second, or ticks per second with `times`.
        times: presentation time of each frame, ticks.
        codec, options: codec and options of FFmpeg; by default H.264, CRF 15.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"crf": "15"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for i, image in enumerate(frames):
            if i == 0:
                stream.width, stream.height = image.shape[1], image.shape[0]
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = times[i] if times else i
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def weave(frames: Sequence[Image]) -> list[Image]:
    """Interlace pairs of frames: even rows from the first frame, odd rows from the second."""
    woven = []
    for top, bottom in zip(frames[::2], frames[1::2], strict=False):
        image = top.copy()
        image[1::2] = bottom[1::2]
        woven.append(image)
    return woven


def overlap(first: Image, second: Image) -> float:
    """Intersection over union of two masks."""
    return float(((first > 0) & (second > 0)).sum() / ((first > 0) | (second > 0)).sum())
