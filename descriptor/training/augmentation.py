"""Augmentation with the variations of endoscopy, so that descriptors become invariant to them.

Brightness and colour of the light, white balance, highlights on wet tissue, defocus, noise, rotation of the scope, and
compression. Each frame of a group is augmented independently; points and masks are rotated with their frame.
"""

from dataclasses import replace

import cv2
import numpy as np

from descriptor.clips.clip import PointPairs
from descriptor.clips.groups import Group
from descriptor.clips.sparse_correspondence import on_tissue
from pipeline.arrays import Bytes, Float64s

Random = np.random.Generator

_STOPS = 1.0
_GAMMA = 0.35
_WHITE_BALANCE = 0.2
_BLUR_PX = 1.5
_TURN_DEG = 30.0
_NOISE_LEVELS = 6.0
_HIGHLIGHTS = 6
_ODDS = 0.5


def augment(group: Group, strength: float, random: Random) -> Group:
    """Augment the frames of a group.

    Args:
        group: frames, masks, points.
        strength: 0 changes nothing, 1 corresponds to the variation in endoscopy.
        random: random generator.

    Returns:
        Consistent frames, masks and points; points that leave the image are removed.
    """
    if strength <= 0:
        return group
    images, masks, turns = [], [], []
    for image, mask in zip(group.images, group.masks, strict=True):
        turn = _turn(image.shape[:2], strength, random)
        size = (image.shape[1], image.shape[0])
        rotated = cv2.warpAffine(image, _opencv(turn), size, flags=cv2.INTER_LINEAR)
        inside = cv2.warpAffine(mask.astype(np.uint8) * 255, _opencv(turn), size, flags=cv2.INTER_LINEAR) == 255
        changed = change_appearance(np.asarray(rotated, np.uint8), strength, random)
        # Pixels outside the content area are black in every frame.
        changed[~inside] = 0
        images.append(changed)
        masks.append(inside)
        turns.append(turn)
    pairs = {}
    for (source, target), points in group.pairs.items():
        moved = PointPairs(_apply(turns[source], points.source), _apply(turns[target], points.target))
        both = on_tissue(moved.source, masks[source]) & on_tissue(moved.target, masks[target])
        if both.any():
            pairs[source, target] = PointPairs(moved.source[both], moved.target[both])
    return replace(group, images=np.stack(images), masks=np.stack(masks), pairs=pairs) if pairs else group


def change_appearance(image: Bytes, strength: float, random: Random) -> Bytes:
    """Change light, colour, sharpness and compression of an image (H, W, 3) uint8 RGB, each with probability 0.5."""
    for change in (_light, _highlights, _blur, _noise, _compress):
        if random.random() < _ODDS:
            image = change(image, strength, random)
    return image


def _light(image: Bytes, strength: float, random: Random) -> Bytes:
    """Exposure, gamma and white balance, applied with a lookup table per channel."""
    gain = 2 ** (strength * _STOPS * random.uniform(-1, 1, 1)) * (
        1 + strength * _WHITE_BALANCE * random.uniform(-1, 1, 3)
    )
    gamma = np.exp(strength * _GAMMA * random.uniform(-1, 1))
    levels = (np.arange(256) / 255) ** gamma
    table = np.clip(255 * levels[:, None] * gain, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)


def _highlights(image: Bytes, strength: float, random: Random) -> Bytes:
    """Specular highlights with soft edges."""
    height, width = image.shape[:2]
    glare = np.zeros((height, width), np.float32)
    for _ in range(1 + int(strength * random.integers(0, _HIGHLIGHTS + 1))):
        centre = (int(random.integers(0, width)), int(random.integers(0, height)))
        axes = tuple(int(each) for each in np.maximum(1, random.uniform(0.004, 0.03, 2) * width))
        cv2.ellipse(glare, centre, axes, random.uniform(0, 180), 0, 360, 1.0, -1)
    glare = np.asarray(cv2.GaussianBlur(glare, (0, 0), 1.0), np.float32)[..., None]
    return (image + glare * (255.0 - image)).astype(np.uint8)


def _blur(image: Bytes, strength: float, random: Random) -> Bytes:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.3 + strength * _BLUR_PX * random.random()), np.uint8)


def _noise(image: Bytes, strength: float, random: Random) -> Bytes:
    noise = random.normal(0, strength * _NOISE_LEVELS * random.random() + 1e-6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _compress(image: Bytes, strength: float, random: Random) -> Bytes:
    quality = int(95 - strength * random.uniform(0, 65))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _turn(size: tuple[int, int], strength: float, random: Random) -> Float64s:
    """A random rotation about the image centre: (2, 3), COLMAP px to COLMAP px."""
    height, width = size
    angle = strength * _TURN_DEG * random.uniform(-1, 1) if random.random() < _ODDS else 0.0
    return np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0))


def _opencv(turn: Float64s) -> Float64s:
    """The same map between OpenCV's pixels, whose first pixel centre is (0, 0)."""
    return np.column_stack([turn[:, :2], turn[:, 2] + turn[:, :2] @ [0.5, 0.5] - 0.5])


def _apply(turn: Float64s, pixels: Float64s) -> Float64s:
    return pixels @ turn[:, :2].T + turn[:, 2]
