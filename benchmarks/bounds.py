"""The bound of every benchmark, and the table that compares a measurement with it.

A bound is what the code reaches today, with a margin for the machine and the seed. A target is what the project aims
for; missing it changes no exit status. A speed is a ratio to a baseline of the same run, in CPU seconds where both run
on the CPU: other programs on the machine change wall time, and hardly change CPU time.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Bound:
    """A limit on one measurement.

    Attributes:
        name: what is measured; unique within a benchmark.
        unit: of the measurement, the bound and the target.
        bound: the worst value that is accepted.
        target: the value that the project aims for; None if no document states one.
        better: which direction is an improvement.
    """

    name: str
    unit: str
    bound: float
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    def accepts(self, measured: float | None) -> bool:
        """Whether a measurement meets the bound. A missing measurement (None or NaN) does not."""
        if measured is None or math.isnan(measured):
            return False
        return measured <= self.bound if self.better == "lower" else measured >= self.bound

    def line(self, measured: float | None) -> str:
        """The measurement, the bound, the target and the unit, in columns."""
        sign = "<=" if self.better == "lower" else ">="
        value = "missing" if measured is None or math.isnan(measured) else f"{measured:.4g}"
        target = "-" if self.target is None else f"{sign} {self.target:g}"
        return f"{value:>9}  {f'{sign} {self.bound:g}':>8}  {target:>8}  {self.unit}"


def check(bounds: Iterable[Bound], measured: Mapping[str, float | None]) -> int:
    """Print every bound beside its measurement and target.

    Args:
        bounds: those that apply to this run.
        measured: name of a bound → its measurement.

    Returns:
        The exit status: 1 if a bound is violated or its measurement is missing, otherwise 0.

    Raises:
        ValueError: if two bounds have the same name, or a measurement has no bound.
    """
    by_name: dict[str, Bound] = {}
    for bound in bounds:
        if bound.name in by_name:
            raise ValueError(f"two bounds are named {bound.name!r}")
        by_name[bound.name] = bound
    if unknown := sorted(measured.keys() - by_name.keys()):
        raise ValueError(f"no bound is named {unknown}")
    if not by_name:
        print("\nno bound applies to this run")
        return 0
    width = max(len(name) for name in by_name)
    print(f"\n{'':<{width}}  {'measured':>9}  {'bound':>8}  {'target':>8}  unit")
    violated = 0
    for name, bound in by_name.items():
        is_accepted = bound.accepts(measured.get(name))
        violated += not is_accepted
        print(f"{name:<{width}}  {bound.line(measured.get(name))}{'' if is_accepted else '  VIOLATED'}")
    print(f"{violated} of {len(by_name)} bounds violated" if violated else f"all {len(by_name)} bounds met", flush=True)
    return int(violated > 0)


def _higher(name: str, unit: str, bound: float, target: float | None = None) -> Bound:
    return Bound(name, unit, bound, target, better="higher")


_SPEED = "x the baseline's speed"
_MEMORY = "x the baseline's memory"

EXTRACTION = (
    _higher("speed, short video", "x the speed of decoding", 0.12),
    _higher("speed, long video", "x the speed of decoding", 0.12),
    Bound("peak memory, short video", "MiB", 600),
    Bound("peak memory, long video", "MiB", 600),
    Bound("memory, long / short", "x", 1.7),
)

RENDERING = {
    anatomy: (
        _higher(f"{anatomy}: speed", "x the speed of encoding", 0.015),
        Bound(f"{anatomy}: memory, long / short", "x", 1.2),
    )
    for anatomy in ("colon", "sinus")
}


def _first_sfm(name: str, path: float, surface: float, focal: float) -> tuple[Bound, ...]:
    return (
        _higher(f"{name}, calibrated: frames", "% of the frames", 100),
        Bound(f"{name}, calibrated: path", "% of the path's length", path),
        Bound(f"{name}, calibrated: surface", "% of the depth", surface),
        _higher(f"{name}, uncalibrated: frames", "% of the frames", 100),
        Bound(f"{name}, uncalibrated: focal length", "% off", focal),
    )


FIRST_SFM = {
    ("tracks", "colon"): _first_sfm("tracks, colon", path=0.5, surface=2.0, focal=3.0),
    ("sift", "colon"): _first_sfm("sift, colon", path=0.4, surface=2.1, focal=2.0),
    ("tracks", "sinus"): _first_sfm("tracks, sinus", path=0.25, surface=1.3, focal=1.5),
    ("sift", "sinus"): _first_sfm("sift, sinus", path=0.15, surface=0.9, focal=2.0),
}
FIRST_SFM_SEQUENCE = {
    method: _higher(f"{method}, sequence: frames", "x the frames of COLMAP", 1) for method in ("tracks", "sift")
}

TRAINING_STEP = {
    "cpu": (_higher("speed", _SPEED, 3), Bound("memory", _MEMORY, 0.35)),
    "cuda": (_higher("speed", _SPEED, 0.3), Bound("memory", _MEMORY, 0.2)),
}

_MUTUAL = "% of the mutual matches"

# A random map has no redundancy that the coarse search could exploit.
MATCHING_RANDOM = (
    _higher("exhaustive: speed", _SPEED, 1.2),
    _higher("exhaustive: agreement", _MUTUAL, 99.9),
    _higher("coarse to fine: speed", _SPEED, 0.8),
    _higher("coarse to fine: agreement", _MUTUAL, 99),
)
MATCHING = (
    _higher("exhaustive: speed", _SPEED, 1.2),
    _higher("exhaustive: agreement", _MUTUAL, 99.9),
    _higher("coarse to fine: speed", _SPEED, 10),
    _higher("coarse to fine: agreement", _MUTUAL, 99),
)
MATCHING_GPU = (
    _higher("GPU, cupy: share of the peak", "%", 40),
    _higher("GPU, cupy / torch", "x the speed of torch", 1.2),
)

PAIR_SELECTION = (
    _higher("pairs of similar 10 / pairs of ddl", "", 0.9),
    Bound("tries of similar 10 / tries of ddl", "", 0.2),
)

GIFT_DESCRIBING = (
    _higher("speed", _SPEED, 0.9, target=2),
    _higher("agreement", "median inner product", 0.999),
)
GIFT_TRAINING = tuple(Bound(f"stage {stage}: search for negatives", "% of a step", 2) for stage in (2, 1))
GIFT_INVARIANCE = (
    _higher("rotated, worst angle", "share of the points", 0.95),
    _higher("scaled by 1/2 to 2, worst", "share of the points", 0.95),
    _higher("scaled by 1/4", "share of the points", 0.82),
    _higher("scaled by 4", "share of the points", 0.66),
    _higher("scaled by 4, GIFT / SIFT", "x the share of SIFT", 1),
)


def _cross_anatomy(clip: str, bounds: Mapping[str, float]) -> tuple[Bound, ...]:
    unit = "x the share of DIS within 5 px"
    return tuple(_higher(f"{clip}, {distances} frames apart", unit, bound) for distances, bound in bounds.items())


# The colon is the anatomy of the training.
CROSS_ANATOMY = {
    "colon phantom": _cross_anatomy("colon phantom", {"21-30": 1.0, "31-45": 1.5, "46-60": 2.7}),
    "sinus phantom": _cross_anatomy("sinus phantom", {"21-30": 0.85, "31-45": 0.95, "46-60": 1.3}),
    "real sinus": _cross_anatomy("real sinus", {"21-30": 0.9, "31-45": 0.85, "46-60": 0.9}),
}


def _end_to_end(clip: str, mode: str, path: float, surface: float, completeness: float) -> tuple[Bound, ...]:
    return (
        _higher(f"{clip}, {mode}: frames", "% of the frames", 98),
        Bound(f"{clip}, {mode}: path", "% of the path's length", path),
        Bound(f"{clip}, {mode}: surface", "% of the depth", surface, target=0.5),
        _higher(f"{clip}, {mode}: completeness", "% of the surface", completeness, target=85),
    )


def _real(mode: str) -> tuple[Bound, ...]:
    return (
        _higher(f"real, {mode}: frames", "% of the frames", 98),
        Bound(f"real, {mode}: path", "% of the path's extent", 3.2),
    )


END_TO_END = {
    ("colon", "flow"): _end_to_end("colon", "flow", path=0.5, surface=2.3, completeness=23),
    ("colon", "both"): _end_to_end("colon", "both", path=0.35, surface=2.0, completeness=28),
    ("sinus", "flow"): _end_to_end("sinus", "flow", path=0.25, surface=1.5, completeness=22),
    ("sinus", "both"): _end_to_end("sinus", "both", path=0.15, surface=1.1, completeness=32),
    **{("real", mode): _real(mode) for mode in ("flow", "descriptor", "both")},
    ("real_3fps", "both"): (_higher("real_3fps, both: frames", "% of the frames", 90),),
}
