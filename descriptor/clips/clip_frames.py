"""Recorded frames of a clip, and a cache of values computed from them."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from descriptor.clips.clip import Clip
from pipeline.arrays import Bytes
from pipeline.data.sequence_images import read_image
from pipeline.errors import LumenError

Value = TypeVar("Value")


def read_recorded(clip: Clip, row: int) -> Bytes:
    """Read a frame at the recorded size, (H, W, 3) RGB.

    Raises:
        LumenError: if it is missing or damaged.
    """
    image = read_image(clip.image_paths[row])
    if image is None:
        raise LumenError(f"{clip.image_paths[row]} is missing or damaged: extract the sequence again")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


class Remembered(Generic[Value]):
    """A function of frames with a least-recently-used cache.

    Args:
        compute: function of a clip and a row.
        frames: number of cached frames.
    """

    def __init__(self, compute: Callable[[Clip, int], Value], frames: int) -> None:
        self._compute, self._frames = compute, frames
        self._known: OrderedDict[Path, Value] = OrderedDict()

    def __call__(self, clip: Clip, row: int) -> Value:
        key = clip.image_paths[row]
        if key not in self._known:
            self._known[key] = self._compute(clip, row)
            if len(self._known) > self._frames:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]
