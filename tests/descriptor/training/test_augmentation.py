"""Augmented frames keep points on the same tissue, their size, and the black border."""

import cv2
import numpy as np
import pytest

from descriptor.clips.data_root import DataSettings, load_clips
from descriptor.clips.groups import Group, GroupSampler
from descriptor.training.augmentation import augment, change_appearance
from textured_plane import write_plane


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Group:
    root = tmp_path_factory.mktemp("plane")
    write_plane(root / "1" / "plane", frames=6)
    settings = DataSettings(image_downsampling=1.0, network_downsampling=32, cache_root=root / "cache")
    clips = load_clips([root / "1" / "plane"], settings)
    drawn = GroupSampler(clips, [np.arange(6)], (1, 5), 4, 200, 0).draw(0, 0)
    assert drawn is not None
    return drawn


def test_strength_zero_changes_nothing(group: Group) -> None:
    assert augment(group, 0.0, np.random.default_rng(0)) is group


def test_augmentation_is_repeatable(group: Group) -> None:
    first, second = (augment(group, 1.0, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    other = augment(group, 1.0, np.random.default_rng(6))
    assert not np.array_equal(first.images, other.images)


def test_points_rotate_with_the_image(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("descriptor.training.augmentation.change_appearance", lambda image, strength, random: image)
    rotated = augment(group, 1.0, np.random.default_rng(1))
    assert not np.array_equal(rotated.images, group.images)
    difference, moved = [], []
    for (source, target), points in rotated.pairs.items():
        shades = [_shade(rotated.images[source], points.source), _shade(rotated.images[target], points.target)]
        difference.append(np.abs(shades[0] - shades[1]))
        moved.append(np.abs(shades[0] - _shade(rotated.images[target], points.target + 1.0)))
    assert np.concatenate(difference).mean() < 6
    assert np.concatenate(difference).mean() < 0.5 * np.concatenate(moved).mean()


def test_points_stay_on_tissue_and_outside_is_black(group: Group) -> None:
    for seed in range(5):
        changed = augment(group, 1.0, np.random.default_rng(seed))
        assert changed.images.shape == group.images.shape and changed.images.dtype == np.uint8
        assert not changed.images[~changed.masks].any()
        assert changed.pairs.keys() <= group.pairs.keys()
        for (source, target), points in changed.pairs.items():
            for frame, places in ((source, points.source), (target, points.target)):
                column, row = np.floor(places).astype(int).T
                assert changed.masks[frame][row, column].all()


def test_a_higher_strength_changes_more() -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 3)
    differences = [
        np.mean([np.abs(change_appearance(image, strength, np.random.default_rng(s)).astype(int) - image).mean()
                 for s in range(20)])
        for strength in (0.1, 0.5, 1.0)
    ]  # fmt: skip
    assert differences[0] < differences[1] < differences[2]


def test_a_black_image_causes_no_error() -> None:
    black = np.zeros((32, 48, 3), np.uint8)
    for seed in range(10):
        assert change_appearance(black, 1.0, np.random.default_rng(seed)).shape == black.shape


def _shade(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    maps = (places - 0.5).astype(np.float32)
    return cv2.remap(image, maps[:, :1], maps[:, 1:], cv2.INTER_LINEAR)[:, 0].astype(float)
