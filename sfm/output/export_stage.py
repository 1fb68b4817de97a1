"""What others take over: cloud, trajectory, cameras, a sequence to train on, and the video with the points on it."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from cv2.typing import MatLike as Image

from pipeline.arrays import Float64s
from pipeline.data.sequence import Sequence
from pipeline.data.sequence_images import read_frame
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import read_training_data
from pipeline.outputs.files import copy_or_link
from pipeline.outputs.owned_files import remove_own, share_output
from pipeline.paths import SequencePaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from sfm.colmap.model import read_model
from sfm.densify_stage import finished_models
from sfm.input_video import InputVideo
from sfm.map_stage import model_numbers, poses_of
from sfm.output.export import write_nerfstudio, write_tum
from sfm.output.overlay import write_overlay

logger = logging.getLogger(__name__)


def export_stage(video: InputVideo, paths: ReconstructionPaths, report: StageReport) -> list[Path]:
    """Write everything that follows from the dense models; returns it, the main outputs of the largest model first."""
    with report.timed("sequence"):
        _copy_sequence(video.paths, paths.sequence, video.frame_index)
    poses = {
        number: poses_of(read_model(paths.of_model(number).sparse), video.frame_index)
        for number in model_numbers(paths)
    }
    outputs: list[Path] = []
    for model in finished_models(paths):
        others = {number: each for number, each in poses.items() if number != model.number}
        _export_model(video, model, poses[model.number], others, report)
        outputs += [model.point_cloud, model.trajectory, model.transforms, model.overlay]
    return outputs


def _export_model(
    video: InputVideo,
    paths: ReconstructionPaths,
    poses: Float64s,
    other_poses: dict[int, Float64s],
    report: StageReport,
) -> None:
    with report.timed("write"):
        data = read_training_data(paths.training_data.model)
        times_s = {frame.index: frame.timestamp_s for frame in video.facts.frames}
        write_tum(data, np.array([times_s[int(index)] for index in data.frame_index]), paths.trajectory)
        masks = [_mask(paths.sequence, int(index)) for index in data.frame_index]
        # Writes the cloud, too.
        write_nerfstudio(data, paths.transforms, paths.point_cloud, masks)
    with report.timed("overlay"):
        camera = video.camera
        assert camera is not None

        def read(row: int) -> Image | None:
            return read_frame(video.source, video.frame_index[row], video.size)

        tracks = Tracks.load(paths.dense_tracks)
        write_overlay(
            *(paths.overlay, read, tracks, data.points, camera, poses, _fps(times_s)), why_no_pose=_why(other_poses)
        )


def _why(other_poses: dict[int, Float64s]) -> Callable[[int], str]:
    """What to write on a frame that a model lacks."""

    def why(row: int) -> str:
        found = next((number for number, poses in other_poses.items() if np.isfinite(poses[row, 0, 0])), None)
        return "no pose" if found is None else f"in model {found}"

    return why


def _fps(times_s: dict[int, float]) -> float:
    """Of the frames that are there, so that the overlay takes as long as the video."""
    steps = np.diff([times_s[index] for index in sorted(times_s)])
    return float(1 / np.median(steps)) if len(steps) and np.median(steps) > 0 else 30.0


def _mask(paths: SequencePaths, index: int) -> Path:
    own = paths.frame_mask(index)
    return own if own.exists() else paths.mask


def _copy_sequence(source: SequencePaths, target: SequencePaths, frame_index: list[int]) -> None:
    """Copy the frames, their masks and facts into the run, which makes it a sequence."""
    pairs = {target.image(index): source.image(index) for index in frame_index}
    pairs |= {target.frame_mask(index): source.frame_mask(index) for index in frame_index}
    # An earlier run may have had other frames.
    remove_own(target.sequence, target.images, target.frame_masks)
    for path, wanted in pairs.items():
        if wanted.exists():
            copy_or_link(wanted, path)
    facts = Sequence.load(source.sequence)
    if not share_output(source.sequence, target.sequence):
        # The run may travel farther than the sequence of the user, who chose to record these.
        facts = replace(
            facts, source=replace(facts.source, path=None), calibration=replace(facts.calibration, file=None)
        )
    facts.save(target.sequence)
