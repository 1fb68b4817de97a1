"""Colour variation of points, on colours with known results."""

import numpy as np
import pytest

from pipeline.color_consistency import color_inconsistency, mean_colors

# The first point has four observations, one without a colour; the second has one; the third has none; the fourth has
# one without a colour.
POINT = np.array([0, 1, 0, 0, 3, 0])
NAN = float("nan")
COLORS = np.array([[100, 100, 100], [5, 6, 7], [110, 110, 110], [NAN] * 3, [NAN] * 3, [90, 90, 90]])


def test_the_mean_uses_known_colors_only() -> None:
    expected = [[100, 100, 100], [5, 6, 7], [NAN] * 3, [NAN] * 3]
    np.testing.assert_allclose(mean_colors(POINT, COLORS, 4), expected, atol=1e-12)


def test_inconsistency_is_the_deviation_relative_to_the_brightness() -> None:
    found = color_inconsistency(POINT, COLORS, 4)
    # The mean of 0, 10^2 and 10^2; 10 grey levels are added to the brightness.
    np.testing.assert_allclose(found, [np.sqrt(200 / 3) / 110, 0, NAN, NAN], atol=1e-12)


def test_all_channels_have_the_same_weight() -> None:
    color = np.array([[60.0, 90, 120], [60, 90, 126]])
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        (found,) = color_inconsistency(np.array([0, 0]), color[:, order], 1)
        assert found == pytest.approx(np.sqrt(9 / 3) / (91 + 10))


def test_brighter_light_changes_little() -> None:
    """Twice the light doubles deviation and brightness, but not the ten added grey levels."""
    color = np.array([[40.0, 40, 40], [60, 60, 60]])
    (dim,) = color_inconsistency(np.array([0, 0]), color, 1)
    (bright,) = color_inconsistency(np.array([0, 0]), 2 * color, 1)
    assert (dim, bright) == (pytest.approx(10 / 60), pytest.approx(20 / 110))


def test_points_without_observations_have_no_value() -> None:
    assert np.isnan(color_inconsistency(np.zeros(0, np.int64), np.zeros((0, 3)), 2)).tolist() == [True, True]
