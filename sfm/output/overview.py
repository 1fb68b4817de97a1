"""Overview plot of a sparse model: point cloud, trajectory, points and reprojection error of each frame."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.arrays import Float64s
from pipeline.data.tracks import Tracks
from pipeline.outputs.files import write_bytes
from sfm.mapping.track_model import TrackModel
from sfm.mapping.triangulation import camera_centers
from sfm.models import ModelFigures

_MOST_POINTS_DRAWN = 60_000
_OUTLIER_QUANTILES = (0.01, 0.99)


def draw_overview(
    path: Path, title: str, model: TrackModel, figures: ModelFigures, tracks: Tracks, colors: Float64s
) -> None:
    """Write the overview plot of a model.

    Args:
        path: PNG file to write.
        title: title of the plot.
        model: model to draw.
        figures: statistics of the model.
        tracks: tracks of the whole video.
        colors: (T, 3) colour of each point, 0..255.
    """
    figure = Figure(figsize=(13, 8.2), dpi=100, layout="constrained")
    # A dollar sign in a name would start a formula.
    figure.suptitle(title, parse_math=False)
    axes = figure.subplot_mosaic([["top", "side"], ["frames", "lengths"]], width_ratios=(1, 1), height_ratios=(1.6, 1))
    points, centers, shades = _principal_axes(model, colors)
    _draw_cloud(
        axes["top"],
        points[:, :2],
        centers[:, :2],
        shades,
        "points and trajectory along the shortest axis",
    )
    _draw_cloud(axes["side"], points[:, ::2], centers[:, ::2], shades, "along the second axis")
    _draw_frames(axes["frames"], figures, tracks)
    lengths = np.bincount(tracks.track[model.used])
    bins = np.arange(1.5, max(3, lengths.max(initial=2)) + 1).tolist()
    axes["lengths"].hist(lengths[lengths > 0], bins=bins, color="0.4")
    axes["lengths"].set(xlabel="track length, images", ylabel="points")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _principal_axes(model: TrackModel, colors: Float64s) -> tuple[Float64s, Float64s, Float64s]:
    """Points and camera centres in their principal axes, the longest first, without outliers; and the point colours."""
    known = np.flatnonzero(np.isfinite(model.points[:, 0]))
    known = known[:: max(1, len(known) // _MOST_POINTS_DRAWN)]
    points = model.points[known]
    centers = camera_centers(model.cam_from_world[model.registered])
    middle = np.median(points, axis=0)
    low, high = np.quantile(points, _OUTLIER_QUANTILES, axis=0)
    near = ((points >= low) & (points <= high)).all(axis=1)
    _, _, axes = np.linalg.svd(np.concatenate([points[near], centers]) - middle, full_matrices=False)
    shades = np.clip(np.nan_to_num(colors[known][near]) / 255, 0, 1)
    return (points[near] - middle) @ axes.T, (centers - middle) @ axes.T, shades


def _draw_cloud(axes: Axes, points: Float64s, centers: Float64s, shades: Float64s, title: str) -> None:
    axes.set_facecolor("0.12")
    axes.scatter(points[:, 0], points[:, 1], c=shades, s=1.5, linewidths=0)
    axes.plot(centers[:, 0], centers[:, 1], color="deepskyblue", linewidth=1)
    axes.scatter(centers[:1, 0], centers[:1, 1], color="deepskyblue", s=25, zorder=3)
    axes.set(aspect="equal", title=title, xticks=[], yticks=[], adjustable="datalim")


def _draw_frames(axes: Axes, figures: ModelFigures, tracks: Tracks) -> None:
    axes.plot(tracks.frame_index, figures.points_in_frame, color="0.3", label="observed points")
    axes.set(xlabel="frame", ylabel="observed points", ylim=(0, None))
    right = axes.twinx()
    right.plot(tracks.frame_index, figures.error_px_in_frame, color="tab:orange", linewidth=1)
    right.set_ylabel("mean reprojection error, px", color="tab:orange")
    right.set_ylim(0, None)
    missing = np.flatnonzero(figures.points_in_frame == 0)
    for row in missing.tolist():
        axes.axvspan(tracks.frame_index[row] - 0.5, tracks.frame_index[row] + 0.5, color="tab:red", alpha=0.25)
    if len(missing):
        axes.set_title(f"unregistered frames (red): {len(missing)}", fontsize=9)
