"""`report.html`: a self-contained page with the warnings, statistics and interactive plots of a reconstruction."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from pipeline.arrays import Bools, Bytes, Float64s, Ints
from pipeline.data.tracks import Tracks
from pipeline.outputs.files import write_text
from sfm.mapping.triangulation import camera_centers

_SHOWN_POINTS = 60_000
_OUTLIER_QUANTILES = (0.005, 0.995)
_FRUSTA = 40
_GRAPH_ROWS = 120
_GREY, _BLUE, _RED = "#555", "#1f77b4", "#d62728"

# Remove Plotly's button that uploads the plot and its logo link: a Content-Security-Policy cannot forbid navigation.
_CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1.2rem;color:#222;background:#fff}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.warning{background:#fff3cd;border-left:5px solid #e0a800;padding:.5rem .8rem;margin:.4rem 0}
.fine{background:#e6f4ea;border-left:5px solid #34a853;padding:.5rem .8rem;margin:.4rem 0}
.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:.8rem 0}
.fact{background:#f4f5f7;border-radius:6px;padding:.5rem .9rem}.fact b{display:block;font-size:1.25rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:.8rem}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}p{margin:.3rem 0;color:#444}
"""


@dataclass(frozen=True)
class ReportContent:
    """Content of the page.

    Attributes:
        title: title of the page.
        warnings: one line each.
        facts: statistics, name → formatted value.
        tracks: O observations of T points in F frames.
        points: (T, 3).
        colors: (T, 3) uint8.
        cam_from_world: (F, 3, 4), NaN for frames without a pose.
        error_px: (O,) reprojection error of each observation.
        coverage: (F,) share of the cells of each frame that hold an observation, 0..1.
        stages: reports of the stages in their order.
    """

    title: str
    warnings: Sequence[str]
    facts: Mapping[str, str]
    tracks: Tracks
    points: Float64s
    colors: Bytes
    cam_from_world: Float64s
    error_px: Float64s
    coverage: Float64s
    stages: Sequence[Mapping[str, Any]]


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page.

    Raises:
        LumenError: if the page cannot be written.
    """
    figures = {
        "cloud": cloud_figure(content),
        "frames": _frames_figure(content),
        "lengths": _lengths_figure(content),
        "errors": _errors_figure(content),
        "graph": _graph_figure(content),
    }
    write_text(path, _page(content, figures))


def _page(content: ReportContent, figures: Mapping[str, go.Figure]) -> str:
    warnings = [f'<div class="warning">{html.escape(line)}</div>' for line in content.warnings]
    facts = [
        f'<div class="fact"><b>{html.escape(value)}</b>{html.escape(name)}</div>'
        for name, value in content.facts.items()
    ]
    plots = "".join(
        f"Plotly.newPlot({json.dumps(name)},{{...{_json(figure)},config:{json.dumps(_CONFIG)}}});"
        for name, figure in figures.items()
    )
    library = get_plotlyjs()
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(library, plots)}">',
            f"<title>{html.escape(content.title)}</title><style>{_STYLE}</style>",
            f"<script>{library}</script></head><body>",
            f"<h1>{html.escape(content.title)}</h1>",
            *(warnings or ['<div class="fine">No warnings.</div>']),
            f'<div class="facts">{"".join(facts)}</div>',
            "<h2>Point cloud and cameras</h2><p>Drag to rotate, scroll to zoom, click a legend entry to hide it. A "
            "good reconstruction is a thin surface in the shape of the anatomy.</p>",
            '<div id="cloud" style="height:620px"></div>',
            "<h2>Frames</h2><p>Coverage: share of the image cells that hold an observation. Red: unregistered frames."
            "</p>",
            '<div id="frames" style="height:330px"></div>',
            '<div class="two"><div><h2>Track lengths</h2><div id="lengths" style="height:320px"></div></div>',
            '<div><h2>Reprojection errors</h2><div id="errors" style="height:320px"></div></div></div>',
            "<h2>Covisibility</h2><p>Number of points that two frames share. A wide band means a well-constrained "
            "trajectory; bright areas off the diagonal mean that the camera returned to an earlier place.</p>",
            '<div id="graph" style="height:520px"></div>',
            f"<h2>Stages</h2>{_stage_table(content.stages)}",
            f"<script>{plots}</script></body></html>",
        ]
    )


def _policy(*scripts: str) -> str:
    """A Content-Security-Policy that forbids all requests, and all scripts except these.

    Plotly needs inline styles; its camera button saves an image through a blob URL.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(figure: go.Figure) -> str:
    # "</script>" inside a string would end the script.
    return str(figure.to_json()).replace("</", "<\\/")


def cloud_figure(content: ReportContent) -> go.Figure:
    """Interactive plot of the point cloud, the trajectory and a sample of the camera frusta."""
    points, colors = _shown_points(content)
    text = [f"rgb({r},{g},{b})" for r, g, b in colors.tolist()]
    registered = np.isfinite(content.cam_from_world[:, 0, 0])
    poses = content.cam_from_world[registered]
    path = camera_centers(poses)
    index = content.tracks.frame_index[registered]
    cloud = go.Scatter3d(
        **_axes(points), mode="markers", marker={"size": 1.4, "color": text}, name="points", hoverinfo="skip"
    )
    line = go.Scatter3d(
        **_axes(path),
        mode="lines",
        line={"color": _BLUE, "width": 4},
        name="trajectory",
        text=[f"frame {number}" for number in index.tolist()],
        hoverinfo="text",
    )
    frusta = go.Scatter3d(
        **_axes(_frusta(poses, points)), mode="lines", line={"color": _RED, "width": 1.5}, name="cameras",
        hoverinfo="skip",
    )  # fmt: skip
    figure = go.Figure([cloud, line, frusta])
    hidden = {"visible": False}
    figure.update_layout(
        scene={"aspectmode": "data", "xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "bgcolor": "#111"},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        legend={"itemsizing": "constant", "x": 0.01, "y": 0.99, "bgcolor": "rgba(255,255,255,0.75)"},
        # The first camera looks along +z with y down.
        scene_camera={"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": 0.6, "y": -0.5, "z": -1.6}},
    )
    return figure


def _shown_points(content: ReportContent) -> tuple[Float64s, Bytes]:
    """A random sample of the points, without outliers, which would shrink the rest of the plot."""
    chosen = np.random.default_rng(0).permutation(len(content.points))[:_SHOWN_POINTS]
    points, colors = content.points[chosen], content.colors[chosen]
    low, high = np.quantile(points, _OUTLIER_QUANTILES, axis=0)
    near = ((points >= low) & (points <= high)).all(axis=1)
    return points[near], colors[near]


def _axes(points: Float64s) -> dict[str, Any]:
    return {axis: np.round(points[:, place], 5).astype(np.float32) for place, axis in enumerate("xyz")}


def _frusta(poses: Float64s, points: Float64s) -> Float64s:
    """Frusta of a sample of the cameras as one polyline, separated by NaN rows."""
    some = poses[np.unique(np.linspace(0, len(poses) - 1, _FRUSTA).astype(int))]
    size = 0.02 * float(np.ptp(points, axis=0).max())
    corners = size * np.array([[0, 0, 0], [-1, -0.8, 1], [1, -0.8, 1], [1, 0.8, 1], [-1, 0.8, 1]])
    outline = corners[[0, 1, 2, 0, 3, 4, 0, 1, 4, 3, 2]]
    parts = []
    for pose in some:
        parts += [(outline - pose[:, 3]) @ pose[:, :3], np.full((1, 3), np.nan)]
    return np.concatenate(parts)


def _frames_figure(content: ReportContent) -> go.Figure:
    index = content.tracks.frame_index
    seen = np.bincount(content.tracks.frame, minlength=len(index))
    figure = go.Figure(
        [
            go.Scatter(x=index, y=100 * content.coverage, name="coverage, %", line={"color": _BLUE}),
            go.Scatter(x=index, y=seen, name="observed points", yaxis="y2", line={"color": _GREY, "width": 1}),
        ]
    )
    shapes = [
        {
            **{"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": index[first] - 0.5, "x1": index[last] + 0.5},
            **{"fillcolor": _RED, "opacity": 0.3, "line": {"width": 0}},
        }
        for first, last in _runs(~np.isfinite(content.cam_from_world[:, 0, 0]))
    ]
    right = {"overlaying": "y", "side": "right", "rangemode": "tozero", "title": "observed points", "showgrid": False}
    left = {"title": "coverage, %", "rangemode": "tozero"}
    legend = {"orientation": "h", "y": 1.12}
    return _plain(figure, xaxis={"title": "frame"}, yaxis=left, yaxis2=right, shapes=shapes, legend=legend)


def _runs(chosen: Bools) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def _lengths_figure(content: ReportContent) -> go.Figure:
    counts = np.bincount(content.tracks.lengths())
    lengths = np.arange(len(counts))
    figure = go.Figure(go.Bar(x=lengths[1:], y=counts[1:], marker={"color": _GREY}))
    return _plain(figure, xaxis={"title": "track length, images"}, yaxis={"title": "points"})


def _errors_figure(content: ReportContent) -> go.Figure:
    counts, edges = np.histogram(content.error_px, bins=60)
    middles = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(go.Bar(x=middles, y=counts, marker={"color": _GREY}))
    return _plain(figure, xaxis={"title": "reprojection error, px"}, yaxis={"title": "observations"})


def _graph_figure(content: ReportContent) -> go.Figure:
    index, shared = shared_points(content.tracks)
    with np.errstate(divide="ignore"):
        shade = np.where(shared > 0, np.log10(np.maximum(shared, 1)), np.nan)
    figure = go.Figure(
        go.Heatmap(
            x=index, y=index, z=shade, customdata=shared, colorscale="Viridis",
            hovertemplate="frames %{x} and %{y}: %{customdata} points<extra></extra>",
            colorbar={"title": "points (log10)"},
        )
    )  # fmt: skip
    return _plain(
        figure, xaxis={"title": "frame"}, yaxis={"title": "frame", "autorange": "reversed", "scaleanchor": "x"}
    )


def shared_points(tracks: Tracks) -> tuple[Ints, Ints]:
    """Evenly sampled frames, by index (G,), and the number of points that each two of them share (G, G)."""
    count = len(tracks.frame_index)
    rows = np.unique(np.linspace(0, count - 1, min(count, _GRAPH_ROWS)).astype(int))
    shared = np.zeros((len(rows), len(rows)), np.int64)
    seen = np.zeros(tracks.track_count, bool)
    observed = [tracks.track[tracks.in_frame(int(row))] for row in rows]
    for place, own in enumerate(observed):
        seen[own] = True
        shared[place] = [int(seen[other].sum()) for other in observed]
        seen[own] = False
    return tracks.frame_index[rows], shared


def _plain(figure: go.Figure, **layout: Any) -> go.Figure:
    figure.update_layout(template="plotly_white", margin={"l": 60, "r": 60, "t": 20, "b": 45}, bargap=0.05, **layout)
    return figure


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><td>{html.escape(stage['stage'])}</td><td>{stage['total_s'] / 60:.1f}</td>"
        f"<td>{stage['peak_memory_mb'] / 1024:.2f}</td></tr>"
        for stage in stages
    ]
    total = sum(stage["total_s"] for stage in stages) / 60
    last = f"<tr><th>total</th><th>{total:.1f}</th><th></th></tr>"
    return (
        f"<table><tr><th>stage</th><th>time, min</th><th>peak memory so far, GiB</th></tr>{''.join(rows)}{last}</table>"
    )
