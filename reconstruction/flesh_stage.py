"""The dense points: every cell of the video's frames looked for around its references, with the path known."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from descriptor.flow.flow_finder import FlowFinder
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.guided_finder import GuidedFinder
from pipeline.color_consistency import mean_colors
from pipeline.data.sequence_images import read_frame_mask
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import write_training_data
from pipeline.errors import NoReconstruction
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from reconstruction.config import ReconstructConfig
from reconstruction.finder import CombinedFinder, directions_by, growing_offsets
from reconstruction.skeleton_stage import model_numbers, poses_of
from sfm.colmap.model import read_model, training_data_from_model
from sfm.colmap.writing import write_binary_model
from sfm.dense_points import DenseLimits, Lattice
from sfm.densify import ReferenceRules, densify
from sfm.input_video import InputVideo
from sfm.mapping.track_model import TrackModel, colored_reconstruction
from sfm.mapping.triangulation import reprojection_errors
from sfm.models import sample_colors

# A cell is to be about as large as a pixel of DDL's network: a quarter of 1080p.
_CELL_SHARE = 1 / 260
_GROWTH, _DESCRIPTOR_GROWTH = 1.15, 1.5
_DESCRIPTOR_REACH = 2.5

logger = logging.getLogger(__name__)


def grow_flesh(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    guided: GuidedFinder | None,
    paths: ReconstructionPaths,
    report: StageReport,
) -> list[ReconstructionPaths]:
    """Make the dense points of every model; writes `dense`, `dense_tracks` and the run's training data.

    Returns:
        The files of each model that has dense points.

    Raises:
        NoReconstruction: if no model has any.
    """
    figures: list[dict[str, Any]] = []
    for number in model_numbers(paths):
        try:
            found = _densify_model(config, video, frames, guided, paths.of_model(number), report)
        except NoReconstruction as error:
            logger.warning("model %d: %s", number, error)
            found = {"points": 0, "problem": str(error)}
        figures.append({"number": number, **found})
    finished = [each for each in figures if each["points"]]
    if not finished:
        raise NoReconstruction(figures[0]["problem"])
    report.counts |= {"models": figures, **{name: value for name, value in finished[0].items() if name != "number"}}
    report.warnings += [f"model {each['number']}: {each['problem']}" for each in figures if not each["points"]]
    return finished_models(paths)


def finished_models(paths: ReconstructionPaths) -> list[ReconstructionPaths]:
    """The files of each model that has dense points, in the order of their numbers."""
    return [paths.of_model(number) for number in model_numbers(paths) if paths.of_model(number).dense_tracks.exists()]


def _densify_model(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    guided: GuidedFinder | None,
    paths: ReconstructionPaths,
    report: StageReport,
) -> dict[str, Any]:
    """Make the dense points of one model; returns its figures.

    Raises:
        NoReconstruction: if there is none.
    """
    camera = video.camera
    assert camera is not None
    poses = poses_of(read_model(paths.sparse), video.frame_index)
    cell_px = cell_side(config, video)
    lattice = Lattice(video.mask > 0, len(frames), cell_px)
    limits = video.limits(config.max_error_px, config.min_views, config.min_angle_deg)
    rules = ReferenceRules(config.references, config.coverage)

    def usable(row: int) -> npt.NDArray[np.bool_] | None:
        if frames[row] is None:
            return None
        return read_frame_mask(video.source, video.frame_index[row], video.mask) > 0

    with report.timed("points"):
        find = _finder(config, frames, guided)
        tracks, points = densify(
            *(find, lattice, camera, poses, DenseLimits(limits, config.max_depth_uncertainty), rules, usable),
            paths.flesh / str(paths.number),
        )
    if not len(points):
        raise NoReconstruction("no dense point: no correspondence agrees with the camera's path")
    tracks = Tracks(np.array(video.frame_index, np.int64), tracks.frame, tracks.track, tracks.pixels, len(points))
    model = TrackModel(camera, poses, points, np.ones(len(tracks.frame), bool))
    with report.timed("colours"):
        colors = sample_colors(video.source, tracks, video.size)
        shades = mean_colors(tracks.track, colors, tracks.track_count)
    with report.timed("write"):
        _write(video, model, tracks, shades, paths)
    return _figures(model, tracks, lattice, cell_px, paths.number)


def cell_side(config: ReconstructConfig, video: InputVideo) -> int:
    """The side of a frame's cells, px."""
    return config.cell_px or max(1, round(_CELL_SHARE * video.content_side))


def pairs_per_reference(config: ReconstructConfig) -> int:
    """In how many frames a reference's points are looked for, at most."""
    return 2 * len(growing_offsets(1, config.reach, _GROWTH))


def _finder(config: ReconstructConfig, frames: WorkingFrames, guided: GuidedFinder | None) -> CombinedFinder:
    count = len(frames)
    flow = None
    if config.correspondences != "descriptor":
        flow = FlowFinder(frames, directions_by(growing_offsets(1, config.reach, _GROWTH), count))
    first = 1 if flow is None else max(1, config.reach // 4)
    offsets = growing_offsets(
        first, round(_DESCRIPTOR_REACH * config.reach), _GROWTH if flow is None else _DESCRIPTOR_GROWTH
    )
    rows = directions_by(offsets, count)
    return CombinedFinder(flow, guided, lambda row: [each for direction in rows(row) for each in direction])


def _write(
    video: InputVideo, model: TrackModel, tracks: Tracks, shades: npt.NDArray[np.float64], paths: ReconstructionPaths
) -> None:
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
