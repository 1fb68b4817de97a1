"""Incremental mapping with pycolmap (Schoenberger & Frahm, CVPR 2016), tuned for small parallax and forward motion."""

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pycolmap

from pipeline.arrays import Float32s, Ints
from pipeline.data.tracks import Tracks
from pipeline.outputs.files import write_bytes
from pipeline.outputs.owned_files import own
from pipeline.paths import SequencePaths
from pipeline.progress import ProgressBar
from sfm.colmap.database import Pair, write_database
from sfm.colmap.files import is_whole
from sfm.colmap.writing import own_mapping_files

# Tracks to map that start in each keyframe, and fewest points that a pair of keyframes shares.
_KEYFRAME_TRACKS = 300
_MIN_SHARED_POINTS = 30
_MIN_TRACK_KEYFRAMES = 3
_PAIR_OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_SNAPSHOT_FRAMES = 40
_LOG_HEADER = ("Log file created at:", "Running on machine:", "Running duration", "Log line format:")

logger = logging.getLogger(__name__)


def frame_name(index: int) -> str:
    """Image name of the frame with an index in the video."""
    return SequencePaths(Path()).image(index).name


def write_keyframes(
    tracks: Tracks, keyframes: Ints, camera: pycolmap.Camera, folder: Path, log: Path, seed: int
) -> Path | None:
    """Write a database of keyframes, with their longest tracks as keypoints and verified matches.

    Args:
        tracks: tracks of the whole video.
        keyframes: (K,) rows of `tracks.frame_index`.
        camera: camera of all frames; its focal length is trusted.
        folder: folder of the database; a complete database of an interrupted run is reused.
        log: file to which pycolmap's log is appended.
        seed: random seed.

    Returns:
        The database, or None if no two keyframes share enough points.
    """
    database = folder / "database.db"
    verified = folder / "verified"
    if not verified.exists():
        selected = select_longest_tracks(tracks, keyframes, _KEYFRAME_TRACKS)
        names = frame_names(tracks, keyframes)
        keypoints, matches = correspondences_from_tracks(selected, keyframes.tolist(), names, _MIN_SHARED_POINTS)
        if not matches:
            return None
        known = pycolmap.Camera(camera.todict())
        known.has_prior_focal_length = True
        write_database(database, known, keypoints, matches)
        verify_pairs(database, list(matches), log, seed)
        write_bytes(verified, b"")
    return database


def select_longest_tracks(tracks: Tracks, keyframes: Ints, points: int) -> Tracks:
    """Select the longest tracks of each keyframe, with their observations in keyframes.

    Args:
        tracks: tracks of the whole video.
        keyframes: (K,) rows of `tracks.frame_index`.
        points: largest number of tracks to take of those that start in a keyframe.
    """
    kept = tracks.select(np.isin(tracks.frame, keyframes))
    lengths = kept.lengths()
    # Group tracks by the keyframe in which they start, the longest first.
    numbers, first = np.unique(kept.track, return_index=True)
    first_keyframe = kept.frame[first]
    order = np.lexsort((-lengths[numbers], first_keyframe))
    rank = np.arange(len(order)) - np.searchsorted(first_keyframe[order], first_keyframe[order])
    chosen = numbers[order][(rank < points) & (lengths[numbers][order] >= _MIN_TRACK_KEYFRAMES)]
    return kept.select(np.isin(kept.track, chosen))


def pair_keyframes(count: int) -> list[tuple[int, int]]:
    """Pairs to match among `count` keyframes: all near ones, and far ones at increasing distances."""
    return [(first, first + offset) for first in range(count) for offset in _PAIR_OFFSETS if first + offset < count]


def correspondences_from_tracks(
    tracks: Tracks, rows: Sequence[int], names: Sequence[str], min_shared: int
) -> tuple[dict[str, Float32s], dict[Pair, Ints]]:
    """Convert the tracks in some frames to keypoints and matches.

    Args:
        tracks: tracks of the video.
        rows: rows of the frames in `tracks.frame_index`.
        names: image names of these frames.
        min_shared: smallest number of points that a pair shares.

    Returns:
        Keypoints and matches as `sfm.colmap.database.write_database` takes them; keypoints are in the order of the
        observations.
    """
    seen = [tracks.in_frame(row) for row in rows]
    keypoints = {name: tracks.pixels[part] for name, part in zip(names, seen, strict=True)}
    matches = {}
    for a, b in pair_keyframes(len(rows)):
        common, in_a, in_b = np.intersect1d(
            tracks.track[seen[a]], tracks.track[seen[b]], assume_unique=True, return_indices=True
        )
        if len(common) >= min_shared:
            matches[names[a], names[b]] = np.column_stack([in_a, in_b]).astype(np.int64)
    return keypoints, matches


def frame_names(tracks: Tracks, rows: Iterable[int]) -> list[str]:
    """Image names of frames, given their rows in `tracks.frame_index`."""
    return [frame_name(int(tracks.frame_index[row])) for row in rows]


def verify_pairs(database: Path, pairs: Sequence[tuple[str, str]], log: Path, seed: int) -> None:
    """Verify the matches of each pair with a two-view geometry, and write the inliers to the database."""
    listing = database.with_suffix(".pairs.txt")
    listing.write_text("".join(f"{first} {second}\n" for first, second in pairs))
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    # The round border of the content area is not a watermark.
    options.detect_watermark = False
    with colmap_log(log):
        pycolmap.verify_matches(database, listing, options)
    listing.unlink()


def has_verified_pairs(database: Path) -> bool:
    """Whether any pair of images has a verified two-view geometry."""
    with pycolmap.Database.open(database) as opened:
        return bool(opened.num_verified_image_pairs())


def map_images(
    database: Path,
    names: Sequence[str],
    folder: Path,
    log: Path,
    seed: int,
    *,
    pair: tuple[str, str] | None = None,
    initial_model: Path | None = None,
) -> Path | None:
    """Reconstruct one model from verified matches, with the camera of the database fixed.

    Args:
        database: database with keypoints and verified matches.
        names: names of the images to use.
        folder: folder for the model, and for snapshots from which an interrupted run resumes.
        log: file to which pycolmap's log is appended.
        seed: random seed.
        pair: names of the initial image pair; None leaves the choice to COLMAP.
        initial_model: a model of some of the images to continue, instead of an initial pair.

    Returns:
        The folder of the model, or None if no image pair could initialize one.
    """
    snapshots, found = folder / "snapshots", folder / "found"
    snapshots.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    own_mapping_files(folder)
    options = mapper_options(seed)
    options.image_names = list(names)
    options.snapshot_path = snapshots
    options.snapshot_frames_freq = _SNAPSHOT_FRAMES
    if pair is not None:
        _set_initial_pair(pair, database, options)
    snapshot = _latest_snapshot(snapshots)
    given = snapshot or initial_model
    registered = pycolmap.Reconstruction(given).num_reg_images() if given else 0
    with colmap_log(log), ProgressBar("mapping", total=len(names), done=registered) as bar:
        models = pycolmap.incremental_mapping(
            database,
            folder,
            found,
            options,
            input_path=given or "",
            initial_image_pair_callback=lambda: bar.update(2),
            next_image_callback=bar.update,
        )
    if not models:
        return None
    model = folder / "model"
    model.mkdir(exist_ok=True)
    max(models.values(), key=lambda found: found.num_reg_images()).write_binary(model)
    return model


def _set_initial_pair(pair: tuple[str, str], database: Path, options: pycolmap.IncrementalPipelineOptions) -> None:
    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
    options.init_image_id1, options.init_image_id2 = ids[pair[0]], ids[pair[1]]
    # COLMAP would try an unsuitable pair hundreds of times.
    options.init_num_trials = 1


def mapper_options(seed: int) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's settings for endoscopic video."""
    options = pycolmap.IncrementalPipelineOptions()
    options.multiple_models = False
    options.extract_colors = False
    options.random_seed = seed
    options.min_model_size = 3
    for holder in (options.mapper, options.triangulation):
        holder.random_seed = seed
    options.ba_refine_focal_length = False
    options.ba_refine_extra_params = False
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.abs_pose_refine_extra_params = False
    # The camera moves along its axis, and little compared with the distance to the tissue.
    options.mapper.init_max_forward_motion = 1.0
    options.mapper.init_min_tri_angle = 4.0
    options.mapper.ba_local_min_tri_angle = 2.0
    # Consecutive frames see nearly the same scene, so COLMAP's default number of adjustments gains nothing.
    options.ba_global_frames_ratio = 1.3
    options.ba_global_points_ratio = 1.3
    options.ba_global_max_refinements = 2
    options.ba_global_max_num_iterations = 20
    options.ba_local_max_num_iterations = 15
    return options


@contextmanager
def colmap_log(path: Path) -> Iterator[None]:
    """Append the log that pycolmap writes inside the block to a file instead of the terminal.

    The file does not contain the name of the machine, and paths below its folder or the parent folder are relative.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own(path)
    settings = pycolmap.logging
    before = settings.alsologtostderr, settings.stderrthreshold
    settings.alsologtostderr, settings.stderrthreshold = False, settings.FATAL.value
    # glog starts with the name of the machine; a killed run must not leave such a file next to the log.
    with tempfile.TemporaryDirectory(prefix="lumensfm-") as folder:
        for level in (settings.WARNING, settings.ERROR):
            settings.set_log_destination(level, "")
        # glog appends time and process ID to this name, and keeps the file open until it gets another name.
        settings.set_log_destination(settings.INFO, Path(folder) / "log.")
        try:
            yield
        finally:
            settings.set_log_destination(settings.INFO, "")
            settings.alsologtostderr, settings.stderrthreshold = before
            with path.open("a", encoding="utf-8") as whole:
                for part in sorted(Path(folder).iterdir()):
                    whole.write(_anonymous(part.read_text(encoding="utf-8", errors="replace"), path.parent))


def _anonymous(log: str, folder: Path) -> str:
    """Remove the name of the machine from a glog file, and make its paths relative to a folder."""
    lines = (line for line in log.splitlines(keepends=True) if not line.startswith(_LOG_HEADER))
    places = {f"{base}{os.sep}": "" for base in (folder, folder.absolute(), folder.resolve())}
    places |= {f"{base.parent}{os.sep}": "../" for base in (folder.absolute(), folder.resolve())}
    found = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])(?:{found})", lambda match: places[match[0]], "".join(lines))


def _latest_snapshot(folder: Path) -> Path | None:
    """The newest complete snapshot."""
    for candidate in sorted((path for path in folder.iterdir() if path.is_dir()), reverse=True):
        with suppress(RuntimeError, ValueError, OSError, LookupError):
            if is_whole(candidate) and pycolmap.Reconstruction(candidate).num_reg_images() >= 2:
                logger.info("resuming mapping from snapshot %s", candidate.name)
                return candidate
    return None
