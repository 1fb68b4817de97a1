"""Local normalisation removes shading and preserves texture and the black outside."""

import numpy as np

from descriptor.fcdensenet.network import normalize_locally


def textured(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    texture = np.random.default_rng(0).normal(0, 0.1, (size, size, 3))
    mask = np.zeros((size, size), bool)
    mask[8:-8, 8:-8] = True
    return texture, mask


def lit(texture: np.ndarray, mask: np.ndarray, light: np.ndarray) -> np.ndarray:
    return (np.clip(light[..., None] * (1 + texture), 0, 255) * mask[..., None]).astype(np.uint8)[None]


def test_the_same_texture_under_other_light_becomes_the_same_image() -> None:
    texture, mask = textured()
    column = np.tile(np.linspace(0, 1, mask.shape[1]), (mask.shape[0], 1))
    left, right = (lit(texture, mask, 90 + 90 * light) for light in (column, 1 - column))
    before = np.abs(left.astype(float) - right)[0][mask].mean()
    after = [normalize_locally(each, mask[None], 8.0).astype(float)[0] for each in (left, right)]
    assert before > 30
    assert np.abs(after[0] - after[1])[mask].mean() < 10
    assert after[0][mask].std() > 30


def test_the_outside_stays_black_and_does_not_darken_the_edge() -> None:
    texture, mask = textured()
    found = normalize_locally(lit(texture, mask, np.full(mask.shape, 120.0)), mask[None], 8.0)[0]
    assert not found[~mask].any()
    edge, middle = found[8:11, 20:-20].astype(float), found[40:60, 20:-20].astype(float)
    assert abs(edge.mean() - middle.mean()) < 12


def test_a_flat_image_becomes_grey_and_radius_zero_changes_nothing() -> None:
    flat = np.full((1, 40, 40, 3), 77, np.uint8)
    mask = np.ones((1, 40, 40), bool)
    assert (np.abs(normalize_locally(flat, mask, 5.0).astype(int) - 128) <= 1).all()
    assert normalize_locally(flat, mask, 0.0) is flat


def test_frames_with_no_tissue_become_black() -> None:
    image = np.full((1, 40, 40, 3), 77, np.uint8)
    assert not normalize_locally(image, np.zeros((1, 40, 40), bool), 5.0).any()
