"""The check of a benchmark's measurements against its bounds."""

import math

import pytest

from benchmarks import bounds
from benchmarks.bounds import Bound, check

ERROR = Bound("error", "px", bound=2.0, target=1.0)
SPEED = Bound("speed", "x", bound=3.0, better="higher")


def output_line(capsys: pytest.CaptureFixture[str], name: str) -> list[str]:
    """The cells of the printed row of a bound."""
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} "))
    return line.split()


@pytest.mark.parametrize(("error", "speed"), [(2.0, 3.0), (0.0, 100.0), (-1.0, math.inf)])
def test_measurements_within_their_bounds_give_status_0(error: float, speed: float) -> None:
    assert check([ERROR, SPEED], {"error": error, "speed": speed}) == 0


@pytest.mark.parametrize(("error", "speed"), [(2.001, 3.0), (2.0, 2.999), (math.inf, 0.0)])
def test_one_violated_bound_gives_status_1(error: float, speed: float) -> None:
    assert check([ERROR, SPEED], {"error": error, "speed": speed}) == 1


@pytest.mark.parametrize("measured", [{}, {"error": None}, {"error": math.nan}])
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_missing_measurement_is_a_violation(
    better: str, measured: dict[str, float | None], capsys: pytest.CaptureFixture[str]
) -> None:
    bound = Bound("error", "px", bound=2.0, better="lower" if better == "lower" else "higher")
    assert check([bound], measured) == 1
    assert output_line(capsys, "error")[1] == "missing"


def test_a_missed_target_is_no_violation() -> None:
    assert check([ERROR], {"error": 1.5}) == 0


def test_the_table_shows_measurement_bound_target_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    check([ERROR], {"error": 1.5})
    assert output_line(capsys, "error") == ["error", "1.5", "<=", "2", "<=", "1", "px"]


def test_a_bound_without_a_target_shows_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    check([SPEED], {"speed": 4.0})
    assert output_line(capsys, "speed") == ["speed", "4", ">=", "3", "-", "x"]


def test_the_table_marks_the_violated_bound_only(capsys: pytest.CaptureFixture[str]) -> None:
    check([ERROR, SPEED], {"error": 2.5, "speed": 4.0})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("VIOLATED")] == ["error"]
    assert lines[-1] == "1 of 2 bounds violated"


def test_a_measurement_without_a_bound_is_an_error() -> None:
    with pytest.raises(ValueError, match="no bound is named .'eror'"):
        check([ERROR], {"error": 1.0, "eror": 1.0})


def test_two_bounds_of_the_same_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="two bounds are named 'error'"):
        check([ERROR, ERROR], {"error": 1.0})


def test_a_run_without_bounds_gives_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert check([], {}) == 0
    assert "no bound applies" in capsys.readouterr().out


def all_bounds(value: object) -> list[Bound]:
    """The bounds in a constant of the module, at any depth."""
    if isinstance(value, Bound):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [bound for part in parts for bound in all_bounds(part)]


def test_every_target_is_at_least_as_good_as_its_bound() -> None:
    found = [bound for name, value in vars(bounds).items() if name.isupper() for bound in all_bounds(value)]
    assert len(found) > 60
    for bound in found:
        assert bound.target is None or bound.accepts(bound.target), bound.name
