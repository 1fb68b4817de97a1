"""Models of a video → files: COLMAP model and SfM training data in one folder, with coloured points."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Float64s, Ints
from pipeline.color_consistency import mean_colors
from pipeline.conventions import opencv_from_colmap
from pipeline.data.sequence_images import read_frame
from pipeline.data.tracks import Tracks
from pipeline.data.training_data import Bytes, inside_mask
from pipeline.data.training_files import write_training_data
from pipeline.image_sampling import sample
from pipeline.paths import SequencePaths
from pipeline.progress import progress
from sfm.colmap.model import training_data_from_model
from sfm.colmap.writing import write_binary_model
from sfm.mapping.track_model import TrackModel, colored_reconstruction, keep_points
from sfm.mapping.triangulation import reprojection_errors


@dataclass(frozen=True)
class ModelFigures:
    """Statistics of a model.

    Attributes:
        frames: registered images.
        points: points with a position.
        observations: observations that agree with their point.
        mean_error_px: mean reprojection error, px; NaN without observations.
        points_in_frame: (F,) points observed in each frame.
        error_px_in_frame: (F,) mean reprojection error of each frame, px; NaN where no point is observed.
    """

    frames: int
    points: int
    observations: int
    mean_error_px: float
    points_in_frame: Ints
    error_px_in_frame: Float64s

    @property
    def mean_track_length(self) -> float:
        return self.observations / max(1, self.points)


def sample_colors(paths: SequencePaths, tracks: Tracks, size: tuple[int, int]) -> Float64s:
    """Sample the colour of every observation.

    Args:
        paths: sequence to read the frames from.
        tracks: O observations, in pixels of these frames.
        size: width and height of the frames, px.

    Returns:
        (O, 3) red, green, blue, 0..255; NaN in frames that cannot be read.
    """
    rows = np.unique(tracks.frame).tolist()

    def read(row: int) -> Float64s:
        part = tracks.in_frame(row)
        frame = read_frame(paths, int(tracks.frame_index[row]), size)
        if frame is None:
            return np.full((part.stop - part.start, 3), np.nan)
        at = opencv_from_colmap(tracks.pixels[part].astype(np.float64)).astype(np.float32)
        return sample(frame, at)[:, ::-1].astype(np.float64)

    with ThreadPoolExecutor(2) as pool:
        found = list(progress(pool.map(read, rows), "reading colours", total=len(rows)))
    return np.concatenate([np.zeros((0, 3)), *found])


def into_pinhole(
    tracks: Tracks, models: Sequence[TrackModel], pinhole: pycolmap.Camera, mask: Bytes
) -> tuple[Tracks, list[TrackModel], Bools]:
    """Undistort tracks and models; observations outside the undistorted content area are removed.

    Args:
        tracks: O observations, in pixels of the frames as recorded.
        models: models of these tracks that share one camera.
        pinhole: camera of the undistorted frames.
        mask: (H, W) content area of the undistorted frames.

    Returns:
        Tracks and models of the undistorted frames, and (O,) bool, the observations that were kept.
    """
    rays = np.asarray(models[0].camera.cam_ray_from_img(np.ascontiguousarray(tracks.pixels, np.float64)))
    pixels = np.full((len(rays), 2), np.nan)
    ahead = np.isfinite(rays).all(axis=1) & (rays[:, 2] > 0)
    pixels[ahead] = np.asarray(pinhole.img_from_cam(np.ascontiguousarray(rays[ahead])))
    kept = inside_mask(pixels, np.ones(len(pixels)), mask)
    moved = replace(tracks, pixels=pixels.astype(np.float32)).select(kept)
    inside = [replace(model, camera=pinhole, used=model.used[kept]) for model in models]
    return moved, [keep_points(model, moved, _view_counts(model, moved) >= 2) for model in inside], kept


def _view_counts(model: TrackModel, tracks: Tracks) -> Ints:
    return np.bincount(tracks.track[model.used], minlength=len(model.points))


def figures_of(model: TrackModel, tracks: Tracks) -> ModelFigures:
    """Compute the statistics of a model."""
    used = model.used
    error_px = reprojection_errors(tracks, model.points, model.camera, model.cam_from_world)[used]
    frame_count = len(tracks.frame_index)
    seen = np.bincount(tracks.frame[used], minlength=frame_count)
    with np.errstate(invalid="ignore"):
        error_in_frame = np.bincount(tracks.frame[used], error_px, frame_count) / seen
    return ModelFigures(
        frames=int(model.registered.sum()),
        points=model.point_count,
        observations=int(used.sum()),
        mean_error_px=float(error_px.mean()) if len(error_px) else float("nan"),
        points_in_frame=seen,
        error_px_in_frame=error_in_frame,
    )


def write_model(
    model: TrackModel, tracks: Tracks, colors: Float64s, mask: Bytes, paths: SequencePaths, models: str, number: int
) -> Path:
    """Write a model of undistorted frames as training data (layout 2) and as a binary COLMAP model, in one folder.

    Args:
        model: model to write.
        tracks: O observations, in pixels of the undistorted frames.
        colors: (O, 3) colour of each observation, 0..255.
        mask: (H, W) content area.
        paths: files of the sequence.
        models: folder of the models, absolute or relative to the folder of the sequence.
        number: number of the model.

    Returns:
        The folder of the model.
    """
    shades = mean_colors(tracks.track[model.used], colors[model.used], tracks.track_count)
    reconstruction = colored_reconstruction(model, tracks, shades)
    images = {paths.image(int(index)).name: paths.image(int(index)) for index in tracks.frame_index}
    data = training_data_from_model(reconstruction, mask, tracks.frame_index, images)
    motion = write_training_data(data, paths.root, number, models)[-1]
    write_binary_model(reconstruction, motion.parent)
    return motion.parent
