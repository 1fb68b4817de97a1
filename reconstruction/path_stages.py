"""The camera's path: points followed through the video, and the model that explains them."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pycolmap

from data_prep.bootstrap import followed_before
from data_prep.bootstrap_input import InputVideo
from data_prep.bootstrap_models import figures_of, sample_colors
from data_prep.model_cleaning import clean_models
from data_prep.point_tracking import (
    KnownPoints,
    check_keyframes,
    choose_keyframes,
    follow_points,
    keyframe_directions,
)
from descriptor.described_frames import DescribedFrames
from descriptor.global_descriptor import FrameSimilarity
from descriptor.guided_finder import GuidedFinder
from descriptor.keypoint_matching import KeypointMatcher
from descriptor.pair_policy import Candidates, DdlPolicy, match_from
from pipeline.array_files import read_arrays, write_arrays
from pipeline.color_consistency import mean_colors
from pipeline.errors import LumenError, explain_os_errors
from pipeline.files import read_yaml, write_bytes, write_json
from pipeline.flow_finder import FlowFinder
from pipeline.paths import TrainingPaths
from pipeline.point_search import Finder
from pipeline.progress import progress
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport
from pipeline.tracks import Integers, Tracks
from pipeline.training_files import read_training_data
from pipeline.working_frames import WorkingFrames
from reconstruction.config import ReconstructConfig
from reconstruction.finder import CombinedFinder
from sfm.colmap_model import frame_number
from sfm.sift import tracks_from_matches
from sfm.track_model import TrackModel, colored_reconstruction, in_first_camera, refine
from sfm.triangulation import Limits
from sfm.video_mapping import VideoModels, map_video, without_points

Floats = npt.NDArray[np.float64]

# Keyframes in which the descriptor looks for the points of a keyframe, by their distance in keyframes.
_DESCRIPTOR_OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
# The camera may come back at any time: so many keyframes beyond these, so many frames apart from each other.
_REVISITS, _REVISITS_APART = 4, 10
# Poses fit if this share of the frames keeps one when they are adjusted.
_MIN_FITTING_SHARE = 0.95

logger = logging.getLogger(__name__)


def correspond(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    guided: GuidedFinder | None,
    paths: ReconstructionPaths,
    report: StageReport,
) -> None:
    """Follow points from keyframes through the video; writes `tracks` and `keyframes`.

    Raises:
        NoReconstruction: if too few frames can be read, or none shows any texture.
    """
    known = followed_before(video.paths.root, config.points)
    with report.timed("keyframes"):
        keyframes, unreadable = (known.keyframes, known.unreadable) if known else choose_keyframes(frames)
    check_keyframes(len(frames), keyframes, unreadable)
    if unreadable:
        index = video.frame_index[unreadable[0]]
        report.warnings.append(f"{len(unreadable)} frames cannot be read, the first is {video.source.image(index)}")
        logger.warning(report.warnings[-1])
    with report.timed("follow"):
        if config.pairs != "keyframes":
            assert guided is not None
            tracks = _match_pairs(config, video, frames, guided.described, paths)
        else:
            tracks = _follow(config, video, frames, keyframes, guided, known.tracks if known else None, paths)
    tracks.save(paths.tracks)
    write_json(paths.keyframes, {"keyframes": keyframes.tolist(), "unreadable": unreadable})
    report.counts |= {
        "frames": len(frames),
        "unreadable": len(unreadable),
        "keyframes": len(keyframes),
        "tracks": tracks.track_count,
        "observations": len(tracks.frame),
    }
    length = len(tracks.frame) / max(1, tracks.track_count)
    logger.info("%d tracks, each in %.1f frames", tracks.track_count, length)


def _follow(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    keyframes: Integers,
    guided: GuidedFinder | None,
    known: Tracks | None,
    paths: ReconstructionPaths,
) -> Tracks:
    """Tracks of the points of keyframes; what flow would find may be known from the first SfM."""
    flow: Finder | None = None
    if config.correspondences != "descriptor" and known is not None:
        logger.info("optical flow is that of the first SfM")
        flow = KnownPoints(known)
    elif config.correspondences != "descriptor":
        flow = FlowFinder(frames, keyframe_directions(len(frames), keyframes))
    similarity = None if guided is None else FrameSimilarity(guided.described, len(frames), config.seed)
    rows = _descriptor_rows(len(frames), keyframes.tolist(), similarity, everywhere=flow is None)
    find = CombinedFinder(flow, guided, rows)
    return follow_points(frames, video.frame_index, keyframes, find, config.points, paths.correspondences)


def _match_pairs(
    config: ReconstructConfig,
    video: InputVideo,
    frames: WorkingFrames,
    described: DescribedFrames,
    paths: ReconstructionPaths,
) -> Tracks:
    """Tracks of keypoints that are matched pair by pair; what is matched of a frame is kept, and gone on from."""
    matcher = KeypointMatcher(frames, described, config.keypoint_rules, config.seed)
    policy, candidates = _pair_policy(config, len(frames), described)
    matches: dict[tuple[int, int], Integers] = {}
    for first in progress(range(len(frames)), "matching"):
        described.work_on(first)
        kept = paths.correspondences / f"{first:06d}.npz"
        arrays = read_arrays(kept, ("second", "rows"))
        if arrays is None:
            found = list(match_from(first, len(frames), policy, matcher.match, candidates))
            second = np.repeat([row for row, _ in found], [len(pair.rows) for _, pair in found]).astype(np.int64)
            rows = np.concatenate([np.zeros((0, 2), np.int64), *(pair.rows for _, pair in found)])
            arrays = {"second": second, "rows": rows}
            write_arrays(kept, arrays)
        second, rows = arrays["second"], arrays["rows"]
        matches |= {(first, int(row)): rows[second == row] for row in np.unique(second)}
    keypoints = [matcher.keypoints(row) for row in range(len(frames))]
    return tracks_from_matches(video.frame_index, keypoints, matches)


def _pair_policy(
    config: ReconstructConfig, frame_count: int, described: DescribedFrames
) -> tuple[DdlPolicy, Candidates | None]:
    """The policy of `config.pairs`, and which frames it tries beyond the next ones."""
    if config.pairs == "similar":
        similarity = FrameSimilarity(described, frame_count, config.seed)

        def alike(first: int) -> list[int]:
            later = range(first + config.temporal_range + 1, frame_count)
            return similarity.most_alike(first, later, config.similar_frames, config.skip_interval)

        return config.policy, alike
    if config.pairs == "sequential":
        return config.policy, lambda first: ()
    if config.pairs == "exhaustive":
        return replace(config.policy, temporal_range=frame_count), None
    return config.policy, None


def _descriptor_rows(
    frame_count: int, keyframes: Sequence[int], similarity: FrameSimilarity | None, *, everywhere: bool
) -> Callable[[int], list[int]]:
    """The frames in which the descriptor looks for a keyframe's points: keyframes near and far, farther ones where they
    look most alike, and, where it is alone, all frames up to the next keyframes."""

    def rows(row: int) -> list[int]:
        place = keyframes.index(row)
        places = [place + sign * offset for offset in _DESCRIPTOR_OFFSETS for sign in (1, -1)]
        found = {keyframes[each] for each in places if 0 <= each < len(keyframes)}
        if similarity is not None:
            reach = _DESCRIPTOR_OFFSETS[-1]
            farther = [*keyframes[: max(0, place - reach)], *keyframes[place + reach + 1 :]]
            found |= set(similarity.most_alike(row, farther, _REVISITS, _REVISITS_APART))
        if everywhere:
            first = keyframes[place - 1] if place else 0
            end = keyframes[place + 1] if place + 1 < len(keyframes) else frame_count - 1
            found |= set(range(first, end + 1)) - {row}
        return sorted(found)

    return rows


def map_skeleton(config: ReconstructConfig, video: InputVideo, paths: ReconstructionPaths, report: StageReport) -> None:
    """Find the camera's path; writes the models of `sparse`, the best first, and lists frames without a pose.

    Poses of a first SfM of the sequence are adjusted if every frame has one; otherwise mapping starts anew.

    Raises:
        NoReconstruction: if no model explains the tracks.
    """
    tracks = Tracks.load(paths.tracks)
    known = read_yaml(paths.keyframes)
    if video.camera is None:
        raise LumenError(f"{video.paths.root} is not calibrated, and its first SfM has not estimated the camera")
    limits = video.limits(config.max_error_px, config.min_views, config.min_angle_deg)
    with report.timed("mapping"):
        poses = _known_poses(video)
        found = None if poses is None else _adjusted(video.camera, poses, tracks, limits, paths)
        if found is None:
            keyframes: Integers = np.array(known["keyframes"], np.int64)
            found = map_video(
                *(tracks, keyframes, video.camera, limits, paths.mapping, paths.log, config.seed), refine_camera=False
            )
    with report.timed("clean"):
        colors = sample_colors(video.source, tracks, video.size)
        found = clean_models(found, tracks, colors, config.cleaning, report)
    found = replace(found, models=[in_first_camera(model, tracks) for model in found.models])
    with report.timed("write"):
        for number, model in enumerate(found.models):
            write_sparse(model, tracks, colors, paths, number)
        _tell(video, found, tracks, known["unreadable"], paths, report)


def _known_poses(video: InputVideo) -> Floats | None:
    """(F, 3, 4) of the sequence's training data, if every frame has one there."""
    if not TrainingPaths(video.paths.root).motion.exists():
        return None
    data = read_training_data(video.paths.root)
    rows = {index: row for row, index in enumerate(video.frame_index)}
    if len(data.frame_index) < len(rows) or not set(data.frame_index.tolist()) <= set(rows):
        return None
    poses: Floats = np.empty((len(rows), 3, 4))
    poses[[rows[int(index)] for index in data.frame_index]] = data.cam_from_world
    return poses


def poses_of(model: pycolmap.Reconstruction, frame_index: Iterable[int]) -> Floats:
    """(F, 3, 4) cam_from_world of frames, NaN for those without a pose in a model."""
    rows = {index: row for row, index in enumerate(frame_index)}
    poses = np.full((len(rows), 3, 4), np.nan)
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        poses[rows[frame_number(image.name)]] = image.cam_from_world().matrix()
    return poses


def _adjusted(
    camera: pycolmap.Camera, poses: Floats, tracks: Tracks, limits: Limits, paths: ReconstructionPaths
) -> VideoModels | None:
    """The model with these poses adjusted; None if they do not fit the tracks."""
    nothing = np.full((tracks.track_count, 3), np.nan)
    model = TrackModel(camera, poses, nothing, np.zeros(len(tracks.frame), bool))
    rough = replace(limits, error_px=2 * limits.error_px)
    model = refine(refine(model, tracks, rough, paths.log), tracks, limits, paths.log)
    if model.registered.sum() < _MIN_FITTING_SHARE * len(poses):
        logger.warning("the poses of the first SfM do not fit what was followed: mapping starts anew")
        return None
    logger.info("the poses of the first SfM adjusted: %d frames, %d points", model.registered.sum(), model.point_count)
    return VideoModels([model], {})


def write_sparse(model: TrackModel, tracks: Tracks, colors: Floats, paths: ReconstructionPaths, number: int) -> None:
    """Write a model as COLMAP's."""
    shades = mean_colors(tracks.track[model.used], colors[model.used], tracks.track_count)
    reconstruction = colored_reconstruction(model, tracks, shades)
    folder = paths.sparse(number)
    with explain_os_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        reconstruction.write_binary(folder)


def _tell(
    video: InputVideo,
    found: VideoModels,
    tracks: Tracks,
    unreadable: Sequence[int],
    paths: ReconstructionPaths,
    report: StageReport,
) -> None:
    reasons = found.missing(tracks) | without_points(tracks) | dict.fromkeys(unreadable, "its image cannot be read")
    missing = {video.frame_index[row]: reasons[row] for row in sorted(reasons)}
    write_bytes(paths.unregistered, "".join(f"{index} {reason}\n" for index, reason in missing.items()).encode())
    figures = figures_of(found.models[0], tracks)
    report.counts |= {
        "frames": len(video.frame_index),
        "registered": figures.frames,
        "points": figures.points,
        "observations": figures.observations,
        "mean_track_length": round(figures.mean_track_length, 2),
        "mean_reprojection_error_px": round(figures.mean_error_px, 3),
        "models": [int(model.registered.sum()) for model in found.models],
    }
    facts = (figures.frames, len(video.frame_index), figures.points, figures.mean_error_px)
    logger.info("camera path: %d of %d frames, %d points, mean reprojection error %.2f px", *facts)
    if missing:
        index, reason = next(iter(missing.items()))
        count = f"{len(missing)} of {len(video.frame_index)} frames have no pose"
        report.warnings.append(f"{count}; the first is frame {index}: {reason}")
        logger.warning("%s; each is listed in %s", report.warnings[-1], paths.unregistered)
