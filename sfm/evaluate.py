"""python -m sfm.evaluate RUN --truth PHANTOM, or --against MODEL: measure the accuracy of a reconstruction."""

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
    """Measure a reconstruction against a phantom's ground truth, or against another reconstruction of the frames."""

    run: tyro.conf.Positional[Path]
    """Folder of a reconstruction, of training data, or of a COLMAP model."""
    truth: Path | None = None
    """Folder of the phantom whose video was reconstructed."""
    against: Path | None = None
    """Another reconstruction of the same video, in any of these forms."""

    def __post_init__(self) -> None:
        require(
            (self.truth is None) != (self.against is None),
            "give one reference to compare with: --truth PHANTOM or --against OTHER_MODEL",
        )


def run(config: EvaluateConfig) -> None:
    """Print the metrics.

    Raises:
        LumenError: if a reconstruction cannot be read, or the two share fewer than 3 frames.
    """
    data = read_reconstruction(config.run)
    print("\n".join(describe(data)))
    if config.truth is not None:
        require_frame_numbers(data, config.run)
        print("\n".join(against_truth(data, SurfaceTruth.load(config.truth))))
    elif config.against is not None:
        print("\n".join(against_other(data, read_reconstruction(config.against))))


def require_frame_numbers(data: TrainingData, folder: Path) -> None:
    """Check that each image can be found in the ground truth.

    Raises:
        LumenError: if the image names do not hold frame indices.
    """
    require(
        has_frame_numbers(data),
        f"{folder}: ground truth needs the frame index in each image name, such as 00000012.jpg; no two images may "
        "share one",
    )


def read_reconstruction(folder: Path) -> TrainingData:
    """Read poses and points of a reconstruction, of training data, or of a COLMAP model with any cameras and names.

    Raises:
        LumenError: if the folder holds none of these.
    """
    require(
        not folder.is_file(),
        f"{folder} is a file, not the folder of a reconstruction; to compare trajectory files, use evo: "
        "evo_ape tum A B -as",
    )
    require(folder.is_dir(), f"{folder} is not a folder")
    if TrainingPaths.find(folder) is not None:
        return read_training_data(folder)
    paths = ReconstructionPaths(folder)
    candidates = (paths.dense, paths.sparse, folder, paths.sparse_models)
    model_folder = next((each for each in candidates if any(each.glob("cameras.*"))), folder)
    return poses_from_model(read_model(model_folder))


def describe(data: TrainingData) -> list[str]:
    """Lines with the size of a reconstruction."""
    length = len(data.observation_point) / max(1, len(data.points))
    per_frame = np.bincount(data.observation_view, minlength=len(data.frame_index))
    return [
        f"registered images        {len(data.frame_index)} of {len(data.selected_index)}",
        f"points                   {len(data.points)}",
        f"mean track length        {length:.2f}",
        f"observations per image   {int(np.median(per_frame))} (median)",
    ]


def against_truth(data: TrainingData, truth: SurfaceTruth) -> list[str]:
    """Lines with the errors against a phantom's ground truth."""
    figures = evaluate(data, truth)
    lines = [
        f"registered               {figures.registered_share:.1%} of the frames that are not black",
        f"ATE                      {figures.ate_share:.3%} of the trajectory length",
        f"RPE                      {figures.rpe_share:.2%} of the mean step",
        f"rotation error           {figures.rotation_deg:.3f} degrees (median)",
    ]
    if not len(data.observation_point):
        return [*lines, "distance to surface      not measured: no point is observed"]
    completeness = "no depth maps" if figures.completeness is None else f"{figures.completeness:.1%}"
    return [
        *lines,
        f"distance to surface      {figures.surface_share:.3%} of the depth (median, {figures.surface_mm:.3f} mm)",
        f"completeness             {completeness} of the surface seen by 3 frames, within {COMPLETE_SHARE:.1%} of the "
        "depth",
        f"point spacing            {figures.spacing_mm:.3f} mm (median)",
    ]


def against_other(data: TrainingData, other: TrainingData) -> list[str]:
    """Lines with the trajectory differences from another reconstruction of the same video."""
    rows, other_rows = _common(data, other)
    estimate, reference = data.cam_from_world[rows], other.cam_from_world[other_rows]
    difference = compare_paths(estimate, reference)
    scale = float(difference.reference_from_estimate.scale)
    return [
        f"frames in common         {len(rows)}",
        f"ATE                      {difference.ate / difference.path_length:.3%} of the trajectory length",
        f"position RMSE            {difference.ate / difference.extent:.3%} of the trajectory extent",
        f"RPE                      {relative_pose_errors(estimate, reference, scale):.2%} of the mean step",
        f"rotation difference      {np.median(difference.rotation_deg):.3f} degrees (median)",
        f"points                   {len(data.points)} against {len(other.points)}",
    ]


def _common(data: TrainingData, other: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the common frames in both; matched by frame index, or by image name where names hold no index."""
    is_numbered = has_frame_numbers(data) and has_frame_numbers(other)
    first, second = _numbers(data, other) if is_numbered else (_names(data), _names(other))
    _, rows, other_rows = np.intersect1d(first, second, return_indices=True)
    if len(rows) < 3:
        key = "frame index" if is_numbered else "image name"
        raise LumenError(
            f"the reconstructions share {len(rows)} frames by {key}, but at least 3 are needed: give two "
            "reconstructions of the same video"
        )
    order = np.argsort(rows)
    return rows[order], other_rows[order]


def _numbers(data: TrainingData, other: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """The frame indices; if none match and both videos have as many frames, the ranks of the frames instead."""
    first, second = data.frame_index, other.frame_index
    if not np.isin(first, second).any() and len(data.selected_index) == len(other.selected_index):
        return np.searchsorted(data.selected_index, first), np.searchsorted(other.selected_index, second)
    return first, second


def _names(data: TrainingData) -> np.ndarray:
    return np.array([path.as_posix() for path in data.image_paths])


if __name__ == "__main__":
    sys.exit(run_command(EvaluateConfig, run))
