"""What others take over: cloud, trajectory, cameras, a sequence to train on, and the video with the points on it."""

import logging
from pathlib import Path

import numpy as np
from cv2.typing import MatLike as Image

from data_prep.bootstrap_input import InputVideo
from pipeline.errors import explain_os_errors
from pipeline.files import link_or_copy
from pipeline.paths import SequencePaths
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from pipeline.sequence_images import read_frame
from pipeline.tracks import Tracks
from pipeline.training_files import read_training_data
from reconstruction.skeleton_stage import poses_of
from sfm.colmap_model import read_model
from sfm.export import write_nerfstudio, write_tum
from sfm.overlay import write_overlay

logger = logging.getLogger(__name__)


def export(video: InputVideo, paths: ReconstructionPaths, report: StageReport) -> list[Path]:
    """Write everything that follows from the dense model; returns it, the main outputs first."""
    with report.timed("sequence"):
        _link_sequence(video.paths, paths.sequence, video.frame_index)
        data = read_training_data(paths.root)
    with report.timed("write"):
        times_s = {frame.index: frame.timestamp_s for frame in video.facts.frames}
        write_tum(data, np.array([times_s[int(index)] for index in data.frame_index]), paths.trajectory)
        masks = [_mask(paths.sequence, int(index)) for index in data.frame_index]
        # Writes the cloud, too.
        write_nerfstudio(data, paths.transforms, paths.point_cloud, masks)
    with report.timed("overlay"):
        poses = poses_of(read_model(paths.sparse()), video.frame_index)
        camera = video.camera
        assert camera is not None

        def read(row: int) -> Image | None:
            return read_frame(video.source, video.frame_index[row], video.size)

        tracks = Tracks.load(paths.dense_tracks)
        write_overlay(paths.overlay, read, tracks, data.points, camera, poses, _fps(times_s))
    return [paths.point_cloud, paths.trajectory, paths.transforms, paths.overlay]


def _fps(times_s: dict[int, float]) -> float:
    """Of the frames that are there, so that the overlay takes as long as the video."""
    steps = np.diff([times_s[index] for index in sorted(times_s)])
    return float(1 / np.median(steps)) if len(steps) and np.median(steps) > 0 else 30.0


def _mask(paths: SequencePaths, index: int) -> Path:
    own = paths.frame_mask(index)
    return own if own.exists() else paths.mask


def _link_sequence(source: SequencePaths, target: SequencePaths, frame_index: list[int]) -> None:
    """Give the frames, their masks and facts a second name in the run, which is a sequence by that."""
    pairs = {target.image(index): source.image(index) for index in frame_index}
    pairs |= {target.frame_mask(index): source.frame_mask(index) for index in frame_index}
    pairs[target.sequence] = source.sequence
    # An earlier run may have had other frames.
    there = [target.sequence, *target.images.glob("*"), *target.frame_masks.glob("*")]
    with explain_os_errors("write", target.root):
        for path in there:
            wanted = pairs.get(path)
            if path.exists() and (wanted is None or not wanted.exists() or not path.samefile(wanted)):
                path.unlink()
    for path, wanted in pairs.items():
        if wanted.exists() and not path.exists():
            link_or_copy(wanted, path)
