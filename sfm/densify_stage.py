"""Densification: sparse models → dense points, found in the frames around reference images with the poses known."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays import Bools, Float64s
from pipeline.color_consistency import mean_colors
from pipeline.command.bounds import Count, PositiveShare, Settings
from pipeline.data.sequence_images import read_frame_mask
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import write_training_data
from pipeline.errors import NoReconstruction
from pipeline.finder import Finder
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from sfm.colmap.model import read_model, training_data_from_model
from sfm.colmap.writing import write_binary_model
from sfm.dense_points import DenseLimits, Lattice
from sfm.densify import ReferenceRules, densify
from sfm.input_video import InputVideo
from sfm.map_stage import model_numbers, poses_of
from sfm.mapping.config import MapConfig
from sfm.mapping.track_model import TrackModel, colored_reconstruction
from sfm.mapping.triangulation import reprojection_errors
from sfm.models import sample_colors

# A cell is to be about as large as a pixel of DDL's network: a quarter of 1080p.
_CELL_SHARE = 1 / 260

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DensifyConfig(Settings):
    """How densely the frames are reconstructed."""

    references: Count = 48
    """Largest number of reference images, whose cells dense points start from."""
    coverage: PositiveShare = 0.6
    """Stop adding reference images when every frame has this share of its cells covered, 0 to 1."""
    reach: Count = 48
    """Frames before and after a reference image in which optical flow finds its points."""
    cell_px: Count | None = None
    """Side of the cells of a frame that hold one observation each; by default 4 px per 1000 px of the content area."""

    def cell_side(self, video: InputVideo) -> int:
        """The side of a frame's cells, px."""
        return self.cell_px or max(1, round(_CELL_SHARE * video.content_side))


@dataclass(frozen=True)
class ReadableFinder:
    """Finds points, and knows which frames can be read.

    Attributes:
        find: finds pixels of a frame in other frames.
        is_readable: whether the frame in a row can be read.
    """

    find: Finder
    is_readable: Callable[[int], bool]


def densify_stage(
    config: DensifyConfig,
    criteria: MapConfig,
    video: InputVideo,
    finder: ReadableFinder,
    paths: ReconstructionPaths,
    report: StageReport,
) -> list[Path]:
    """Find the dense points of every sparse model.

    Args:
        config: the settings.
        criteria: what a point has to satisfy.
        video: the sequence.
        finder: finds pixels of a reference image in the frames around it.
        paths: of the run.
        report: to fill in.

    Returns:
        Of each model that has dense points: the model, its tracks, and the same as training data.

    Raises:
        NoReconstruction: if no model has any.
    """
    figures: list[dict[str, Any]] = []
    for number in model_numbers(paths):
        try:
            found = _densify_model(config, criteria, video, finder, paths.of_model(number), report)
        except NoReconstruction as error:
            logger.warning("model %d: %s", number, error)
            found = {"points": 0, "problem": str(error)}
        figures.append({"number": number, **found})
    finished = [each for each in figures if each["points"]]
    if not finished:
        raise NoReconstruction(figures[0]["problem"])
    report.counts |= {"models": figures, **{name: value for name, value in finished[0].items() if name != "number"}}
    report.warnings += [f"model {each['number']}: {each['problem']}" for each in figures if not each["points"]]
    return [
        path
        for model in finished_models(paths)
        for path in (model.dense, model.dense_tracks, model.training_data.model)
    ]


def finished_models(paths: ReconstructionPaths) -> list[ReconstructionPaths]:
    """The files of each model that has dense points, in the order of their numbers."""
    return [paths.of_model(number) for number in model_numbers(paths) if paths.of_model(number).dense_tracks.exists()]


def _densify_model(
    config: DensifyConfig,
    criteria: MapConfig,
    video: InputVideo,
    finder: ReadableFinder,
    paths: ReconstructionPaths,
    report: StageReport,
) -> dict[str, Any]:
    """Find the dense points of one model; returns its figures.

    Raises:
        NoReconstruction: if there is none.
    """
    camera = video.camera
    assert camera is not None
    poses = poses_of(read_model(paths.sparse), video.frame_index)
    cell_px = config.cell_side(video)
    lattice = Lattice(video.mask > 0, len(video.frame_index), cell_px)
    limits = DenseLimits(video.limits(criteria), criteria.max_depth_uncertainty)
    rules = ReferenceRules(config.references, config.coverage)

    def usable(row: int) -> Bools | None:
        if not finder.is_readable(row):
            return None
        return read_frame_mask(video.source, video.frame_index[row], video.mask) > 0

    with report.timed("points"):
        folder = paths.reference_points / str(paths.number)
        tracks, places = densify(finder.find, lattice, camera, poses, limits, rules, usable, folder)
    if not len(places):
        raise NoReconstruction("no dense point: no match agrees with the camera poses")
    tracks = Tracks(np.array(video.frame_index, np.int64), tracks.frame, tracks.track, tracks.pixels, len(places))
    model = TrackModel(camera, poses, places, np.ones(len(tracks.frame), bool))
    with report.timed("colours"):
        colors = sample_colors(video.source, tracks, video.size)
        shades = mean_colors(tracks.track, colors, tracks.track_count)
    with report.timed("write"):
        _write(video, model, tracks, shades, paths)
    return _figures(model, tracks, lattice, cell_px, paths.number)


def _write(video: InputVideo, model: TrackModel, tracks: Tracks, shades: Float64s, paths: ReconstructionPaths) -> None:
    tracks.save(paths.dense_tracks)
    reconstruction = colored_reconstruction(model, tracks, shades)
    write_binary_model(reconstruction, paths.dense)
    images = {paths.sequence.image(index).name: paths.sequence.image(index) for index in video.frame_index}
    data = training_data_from_model(reconstruction, video.mask, tracks.frame_index, images)
    write_training_data(data, paths.root, paths.number)


def _figures(model: TrackModel, tracks: Tracks, lattice: Lattice, cell_px: int, number: int) -> dict[str, Any]:
    error_px = reprojection_errors(tracks, model.points, model.camera, model.cam_from_world)
    coverage = lattice.coverage()[model.registered]
    facts = (number, model.point_count, len(tracks.frame) / model.point_count, np.median(error_px))
    logger.info(
        "model %d: %d dense points, each in %.1f frames, median error %.2f px, %.0f %% of the cells covered",
        *(*facts, 100 * coverage.mean()),
    )
    return {
        "frames": int(model.registered.sum()),
        "points": model.point_count,
        "observations": len(tracks.frame),
        "mean_track_length": round(len(tracks.frame) / model.point_count, 2),
        "median_reprojection_error_px": round(float(np.median(error_px)), 3),
        "mean_coverage": round(float(coverage.mean()), 4),
        "least_coverage": round(float(coverage.min()), 4),
        "cell_px": cell_px,
    }
