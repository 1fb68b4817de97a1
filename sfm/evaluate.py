"""python -m sfm.evaluate RUN --truth PHANTOM, or --against MODEL: how good a reconstruction is."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from pipeline.command.run_command import run_command
from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError, require
from pipeline.paths import TrainingPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from sfm.colmap.model import has_frame_numbers, poses_from_model, read_model
from sfm.evaluation.alignment import compare_paths, relative_pose_errors
from sfm.evaluation.surface import SurfaceTruth
from sfm.evaluation.truth import COMPLETE_SHARE, evaluate


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a reconstruction: against a phantom's truth, or against another reconstruction of the same frames."""

    run: tyro.conf.Positional[Path]
    """Folder of a reconstruction, of training data, or of a COLMAP model."""
    truth: Path | None = None
    """The phantom whose video was reconstructed."""
    against: Path | None = None
    """Another reconstruction of the same video, of any of these kinds."""

    def __post_init__(self) -> None:
        require(
            (self.truth is None) != (self.against is None),
            "give what to compare with: --truth PHANTOM, or --against OTHER_MODEL",
        )


def run(config: EvaluateConfig) -> None:
    """Print the figures.

    Raises:
        LumenError: if either cannot be read, or they share fewer than 3 frames.
    """
    data = read_reconstruction(config.run)
    print("\n".join(describe(data)))
    if config.truth is not None:
        require(
            has_frame_numbers(data),
            f"{config.run}: --truth needs the frame of each image, a number of its own in each name, such as "
            "00000012.jpg",
        )
        print("\n".join(against_truth(data, SurfaceTruth.load(config.truth))))
    elif config.against is not None:
        print("\n".join(against_other(data, read_reconstruction(config.against))))


def read_reconstruction(folder: Path) -> TrainingData:
    """Read the poses and points of a run, of training data, or of a COLMAP model with any cameras and names.

    Raises:
        LumenError: if it is none of these.
    """
    require(
        not folder.is_file(),
        f"{folder} is a file, not the folder of a reconstruction; evo compares trajectories: evo_ape tum A B -as",
    )
    require(folder.is_dir(), f"{folder} is not a folder")
    if TrainingPaths.find(folder) is not None:
        return read_training_data(folder)
    paths = ReconstructionPaths(folder)
    candidates = (paths.dense, paths.sparse, folder, paths.sparse_models)
    model_folder = next((each for each in candidates if any(each.glob("cameras.*"))), folder)
    return poses_from_model(read_model(model_folder))


def describe(data: TrainingData) -> list[str]:
    """What a reconstruction holds."""
    length = len(data.observation_point) / max(1, len(data.points))
    per_frame = np.bincount(data.observation_view, minlength=len(data.frame_index))
    return [
        f"frames with a pose       {len(data.frame_index)} of {len(data.selected_index)}",
        f"points                   {len(data.points)}",
        f"frames a point is seen in {length:.2f}",
        f"points seen in a frame   {int(np.median(per_frame))} (median)",
    ]


def against_truth(data: TrainingData, truth: SurfaceTruth) -> list[str]:
    """The figures of a phantom's reconstruction."""
    figures = evaluate(data, truth)
    lines = [
        f"registered               {figures.registered_share:.1%} of the frames that show something",
        f"ATE                      {figures.ate_share:.3%} of the path",
        f"RPE                      {figures.rpe_share:.2%} of a step",
        f"rotation                 {figures.rotation_deg:.3f} degrees (median)",
    ]
    if not len(data.observation_point):
        return [*lines, "points to the surface    not measured: no frame sees a point"]
    completeness = "no depth maps" if figures.completeness is None else f"{figures.completeness:.1%}"
    return [
        *lines,
        f"points to the surface    {figures.surface_share:.3%} of the depth (median, {figures.surface_mm:.3f} mm)",
        f"completeness             {completeness} of what 3 frames see, within {COMPLETE_SHARE:.1%} of the depth",
        f"spacing of the points    {figures.spacing_mm:.3f} mm (median)",
    ]


def against_other(data: TrainingData, other: TrainingData) -> list[str]:
    """How the camera path differs from that of another reconstruction of the same video."""
    rows, other_rows = _common(data, other)
    estimate, reference = data.cam_from_world[rows], other.cam_from_world[other_rows]
    difference = compare_paths(estimate, reference)
    scale = float(difference.reference_from_estimate.scale)
    return [
        f"frames in common         {len(rows)}",
        f"ATE                      {difference.ate / difference.path_length:.3%} of the path",
        f"position RMSE            {difference.ate / difference.extent:.3%} of the extent",
        f"RPE                      {relative_pose_errors(estimate, reference, scale):.2%} of a step",
        f"rotation                 {np.median(difference.rotation_deg):.3f} degrees (median)",
        f"points                   {len(data.points)} against {len(other.points)}",
    ]


def _common(data: TrainingData, other: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """The views of the same frames, by their index, or by their images' names where these do not give one."""
    is_numbered = has_frame_numbers(data) and has_frame_numbers(other)
    first, second = _numbers(data, other) if is_numbered else (_names(data), _names(other))
    _, rows, other_rows = np.intersect1d(first, second, return_indices=True)
    if len(rows) < 3:
        what = "of the same index" if is_numbered else "whose images have the same name"
        raise LumenError(f"they have {len(rows)} frames {what}: both have to be of the same video, at least 3 frames")
    order = np.argsort(rows)
    return rows[order], other_rows[order]


def _numbers(data: TrainingData, other: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """The frames' indices, or their places among equally many frames if no index is the same."""
    first, second = data.frame_index, other.frame_index
    if not np.isin(first, second).any() and len(data.selected_index) == len(other.selected_index):
        return np.searchsorted(data.selected_index, first), np.searchsorted(other.selected_index, second)
    return first, second


def _names(data: TrainingData) -> np.ndarray:
    return np.array([path.as_posix() for path in data.image_paths])


if __name__ == "__main__":
    sys.exit(run_command(EvaluateConfig, run))
