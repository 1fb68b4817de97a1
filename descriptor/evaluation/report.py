"""Output of an evaluation: table, JSON values and plots."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot

from descriptor.evaluation.pck import THRESHOLDS_PX, Distances, Errors
from pipeline.outputs.files import atomic_write

_PLOTTED_PX = (5, 10, 20)


def table(results: dict[str, Errors], thresholds_px: tuple[int, ...] = THRESHOLDS_PX) -> str:
    """Text table: PCK at each threshold and median error, per distance between frames and method."""
    heads = [f"{threshold} px" for threshold in thresholds_px]
    width = max(len(name) for name in [*results, "method"])
    lines = [
        f"{'frames apart':<13} {'method':<{width}} " + " ".join(f"{head:>6}" for head in heads) + "  median  points"
    ]
    for distances in _distances(results):
        for name, errors in results.items():
            count = len(errors.at(distances))
            apart = f"{distances[0]}-{distances[1]}"
            if not count:
                lines.append(f"{apart:<13} {name:<{width}} " + " ".join(f"{'-':>6}" for _ in heads) + f"{'-':>8}{0:>8}")
                continue
            shares = " ".join(f"{errors.pck(distances, threshold):>6.3f}" for threshold in thresholds_px)
            lines.append(f"{apart:<13} {name:<{width}} {shares}{errors.median_px(distances):>8.2f}{count:>8}")
    return "\n".join(lines)


def as_mapping(results: dict[str, Errors]) -> dict[str, Any]:
    """Builtin types: method → distance between frames → pairs, points, median error, and PCK at each threshold."""
    return {
        name: {
            f"{distances[0]}-{distances[1]}": {
                "pairs": len(errors.by_distance[distances]),
                "points": len(errors.at(distances)),
                "median_px": _number(errors.median_px(distances)),
                "pck": {str(px): _number(errors.pck(distances, px)) for px in THRESHOLDS_PX},
            }
            for distances in errors.by_distance
        }
        for name, errors in results.items()
    }


def plot_pck(results: dict[str, Errors], path: Path) -> None:
    """Plot PCK at each threshold against the distance between frames."""
    figure, panels = pyplot.subplots(1, len(_PLOTTED_PX), figsize=(11, 3.6), sharey=True, layout="constrained")
    names = [f"{low}-{high}" for low, high in _distances(results)]
    for panel, threshold in zip(panels, _PLOTTED_PX, strict=True):
        for name, errors in results.items():
            shares = [errors.pck(distances, threshold) for distances in _distances(results)]
            panel.plot(names, shares, "o-", ms=4, label=name)
        panel.set(title=f"within {threshold} px", xlabel="distance, frames", ylim=(0, 1.02))
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("share of points")
    panels[0].legend(fontsize=8)
    _save(figure, path)


def plot_errors(results: dict[str, Errors], path: Path) -> None:
    """Plot the cumulative share of points against the error, over all distances between frames."""
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    limits = np.geomspace(0.1, 200, 300)
    for name, errors in results.items():
        every = np.concatenate([errors.at(distances) for distances in errors.by_distance])
        axes.plot(limits, np.searchsorted(np.sort(every), limits, side="right") / max(1, len(every)), label=name)
    axes.set(xscale="log", xlabel="error, px", ylabel="share of points", ylim=(0, 1.02))
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


def _distances(results: dict[str, Errors]) -> list[Distances]:
    return list(next(iter(results.values())).by_distance)


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
