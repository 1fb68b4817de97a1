"""Models of a video → their files: COLMAP's model and SfM training data in one folder, cleaned and coloured."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

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

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelFigures:
    """What a model holds; `points_in_frame` and `error_px_in_frame` are (F,), NaN errors where nothing is seen."""

    frames: int
    points: int
    observations: int
    mean_error_px: float
    points_in_frame: npt.NDArray[np.int64]
    error_px_in_frame: Floats

    @property
    def mean_track_length(self) -> float:
        return self.observations / max(1, self.points)


def sample_colors(paths: SequencePaths, tracks: Tracks, size: tuple[int, int]) -> Floats:
    """Read the colour at every observation.

    Args:
        paths: the sequence whose pixels the tracks are in.
        tracks: O observations.
        size: width and height of the frames, px.

    Returns:
        (O, 3) red, green, blue, 0..255; NaN in frames that cannot be read.
    """
    rows = np.unique(tracks.frame).tolist()

    def read(row: int) -> Floats:
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
) -> tuple[Tracks, list[TrackModel], npt.NDArray[np.bool_]]:
    """Tracks and models of frames as recorded → those of the undistorted frames; what is not in them goes.

    Args:
        tracks: in pixels of the frames as recorded.
        models: of these tracks; all with one camera.
        pinhole: of the undistorted frames.
        mask: (H, W) content area of the undistorted frames.

    Returns:
        Tracks, models, and (O,) which observations were kept.
    """
    rays = np.asarray(models[0].camera.cam_ray_from_img(np.ascontiguousarray(tracks.pixels, np.float64)))
    pixels = np.full((len(rays), 2), np.nan)
    ahead = np.isfinite(rays).all(axis=1) & (rays[:, 2] > 0)
    pixels[ahead] = np.asarray(pinhole.img_from_cam(np.ascontiguousarray(rays[ahead])))
    kept = inside_mask(pixels, np.ones(len(pixels)), mask)
    moved = replace(tracks, pixels=pixels.astype(np.float32)).select(kept)
    inside = [replace(model, camera=pinhole, used=model.used[kept]) for model in models]
    return moved, [keep_points(model, moved, _view_counts(model, moved) >= 2) for model in inside], kept


def _view_counts(model: TrackModel, tracks: Tracks) -> npt.NDArray[np.int64]:
    return np.bincount(tracks.track[model.used], minlength=len(model.points))


def figures_of(model: TrackModel, tracks: Tracks) -> ModelFigures:
    """Count what a model holds."""
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
    model: TrackModel, tracks: Tracks, colors: Floats, mask: Bytes, paths: SequencePaths, models: str, number: int
) -> Path:
    """Write a model of undistorted frames as training data (layout 2) and as COLMAP's binary model, in one folder.

    Args:
        model: what to write.
        tracks: in pixels of the undistorted frames.
        colors: (O, 3) of each observation.
        mask: (H, W) content area.
        paths: the sequence.
        models: folder of the models, as a path from the sequence's folder or an absolute one.
        number: of the model.

    Returns:
        The model's folder.
    """
    shades = mean_colors(tracks.track[model.used], colors[model.used], tracks.track_count)
    reconstruction = colored_reconstruction(model, tracks, shades)
    images = {paths.image(int(index)).name: paths.image(int(index)) for index in tracks.frame_index}
    data = training_data_from_model(reconstruction, mask, tracks.frame_index, images)
    motion = write_training_data(data, paths.root, number, models)[-1]
    write_binary_model(reconstruction, motion.parent)
    return motion.parent
