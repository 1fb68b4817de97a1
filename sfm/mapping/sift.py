"""Tracks from SIFT (Lowe, IJCV 2004), extracted, matched and verified by pycolmap with settings tuned for tissue.

The settings were tuned on two parts of a sinus video with 60 frames each: for a large number and share of observations
that the reference poses explain within 3 px, and for little time.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.arrays import Bytes, Float32s, Ints
from pipeline.data.images import write_image
from pipeline.data.sequence_images import is_cut_off
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import read_mask
from pipeline.errors import LumenError
from pipeline.outputs.files import write_bytes
from pipeline.paths import SequencePaths
from pipeline.progress import ProgressBar
from sfm.colmap.writing import own_mapping_files
from sfm.mapping.incremental import colmap_log

# Longest side of the content area in the images passed to SIFT, which upsamples them by 2. Larger images take time and
# yield keypoints on noise.
_CONTENT_SIZE_PX = 550
# Tissue has low contrast; COLMAP's default is 0.0067.
_PEAK_THRESHOLD = 0.001
# The edge of the content area yields static keypoints, which look like a static camera. A margin of this share of the
# longest side is excluded.
_EDGE_MARGIN = 0.02
# Number of later frames that each frame is matched with.
_OVERLAP_FRAMES = 10
# In pixels of the images passed to SIFT. It suits distorted images too: within the overlap, the fundamental matrix
# absorbs the distortion.
_MAX_EPIPOLAR_ERROR_PX = 0.75
# Batch sizes of pycolmap calls; progress is shown between batches.
_FRAMES_AT_ONCE = 32
_PAIRS_AT_ONCE = 320

logger = logging.getLogger(__name__)


def match_sift(
    paths: SequencePaths, frame_index: Sequence[int], camera: pycolmap.Camera, folder: Path, log: Path, seed: int
) -> Tracks:
    """Extract SIFT features, match each frame with the following ones, and build tracks from the verified matches.

    Args:
        paths: files of the sequence.
        frame_index: indices of the frames to use, ascending. Frames that are missing, damaged or do not have the size
            of the camera get no observations.
        camera: camera of all frames; its focal length is trusted if `has_prior_focal_length` is set.
        folder: folder of `sift.db`, from which an interrupted run resumes. An existing database is assumed to hold the
            same images.
        log: file to which pycolmap's log is appended.
        seed: random seed.

    Returns:
        Tracks with 2 or more observations, px in COLMAP's convention.

    Raises:
        LumenError: if the content area is missing or does not have the size of the camera, or if the database is
            damaged or has another camera.
    """
    content = _read_content(paths.mask, camera)
    database = folder / "sift.db"
    longest = max(cv2.boundingRect(content)[2:])
    scale = min(1.0, _CONTENT_SIZE_PX / max(1, longest))
    write_image(folder / "content.png", _without_edge(content, _EDGE_MARGIN * longest))
    with colmap_log(log):
        camera_id = _open_database(database, camera)
        reader = pycolmap.ImageReaderOptions()
        reader.existing_camera_id = camera_id
        reader.camera_mask_path = folder / "content.png"
        _extract(database, paths, frame_index, reader, _extraction_options(max(camera.width, camera.height), scale))
        names = [paths.image(index).name for index in frame_index]
        pairs = _pairs_to_match(database, names, log)
        _match(database, pairs, _verification_options(scale, seed))
    return tracks_from_matches(frame_index, *_read(database, names))


def tracks_from_matches(
    frame_index: Sequence[int],
    keypoints: Sequence[Float32s],
    matches: Mapping[tuple[int, int], npt.NDArray[np.integer]],
) -> Tracks:
    """Build tracks from matches: the connected components of keypoints.

    A component with two keypoints in one frame contains a wrong match. Its matches are then merged one by one, those
    between the nearest frames first, and a match that would join two keypoints of one frame is skipped. Dropping the
    components with more than two such frames instead would lose a fifth to a quarter of the correct observations.

    Args:
        frame_index: indices of F frames, ascending.
        keypoints: (N, 2) px of each frame.
        matches: two rows of `frame_index` → (M, 2) keypoint indices in the first and second frame.

    Returns:
        Tracks with 2 or more observations, at the pixels of the keypoints.

    Raises:
        ValueError: if a match has an invalid keypoint index.
    """
    counts = np.array([len(each) for each in keypoints], np.int64)
    first = np.cumsum(counts) - counts
    pairs = sorted(matches, key=lambda pair: (abs(pair[1] - pair[0]), min(pair)))
    joined = [np.zeros((0, 2), np.int64)]
    for pair in pairs:
        rows = np.asarray(matches[pair], np.int64).reshape(-1, 2)
        if (rows < 0).any() or (rows >= counts[list(pair)]).any():
            raise ValueError(f"a match of frames {pair} has a keypoint index outside 0..{counts[list(pair)]}")
        joined.append(rows + first[list(pair)])
    matched, edges = np.unique(np.concatenate(joined), return_inverse=True)
    edges = edges.reshape(-1, 2)
    frame = np.repeat(np.arange(len(counts)), counts)[matched]
    component = _separate(_connect(len(matched), edges), edges, frame)
    pixels = np.concatenate([np.zeros((0, 2), np.float32), *keypoints]).astype(np.float32)[matched]
    track = np.unique(component, return_inverse=True)[1].astype(np.int64)
    return Tracks(np.array(frame_index, np.int64), frame, track, pixels).at_least(2)


def _connect(count: int, edges: Ints) -> Ints:
    """Vectorized union-find on edges (E, 2): (count,) smallest member of the component of each keypoint."""
    root = np.arange(count)
    while True:
        ends = np.sort(root[edges], axis=1)
        apart = ends[:, 0] != ends[:, 1]
        if not apart.any():
            return root
        np.minimum.at(root, ends[apart, 1], ends[apart, 0])
        while (root[root] != root).any():
            root = root[root]


def _separate(component: Ints, edges: Ints, frame: Ints) -> Ints:
    """Split components with two keypoints in one frame: (N,) smallest member of the component of each keypoint."""
    frame_count = int(frame.max(initial=-1)) + 1
    _, place, times = np.unique(component * frame_count + frame, return_inverse=True, return_counts=True)
    ambiguous = np.isin(component, component[times[place] > 1])
    members = np.flatnonzero(ambiguous)
    root = {member: member for member in members.tolist()}
    frames = {member: {row} for member, row in zip(members.tolist(), frame[members].tolist(), strict=True)}

    def find(member: int) -> int:
        while root[member] != member:
            root[member] = member = root[root[member]]
        return member

    for one, other in edges[ambiguous[edges[:, 0]]].tolist():
        low, high = sorted((find(one), find(other)))
        if low != high and frames[low].isdisjoint(frames[high]):
            root[high] = low
            frames[low] |= frames.pop(high)
    separated = component.copy()
    separated[members] = [find(member) for member in members.tolist()]
    return separated


def _read_content(path: Path, camera: pycolmap.Camera) -> Bytes:
    content = read_mask(path)
    if content.shape != (camera.height, camera.width):
        raise LumenError(
            f"{path} has {content.shape[1]}x{content.shape[0]} pixels, but the camera {camera.width}x{camera.height}: "
            "extract the sequence again, or give the camera that it was extracted with"
        )
    return content


def _without_edge(content: Bytes, margin_px: float) -> Bytes:
    inside = cv2.distanceTransform(content, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > margin_px
    return np.where(inside, 255, 0).astype(np.uint8)


def _extraction_options(longest_px: int, scale: float) -> pycolmap.FeatureExtractionOptions:
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = max(1, round(scale * longest_px))
    options.sift.peak_threshold = _PEAK_THRESHOLD
    # A scope hardly rotates about its axis within the overlap, and upright descriptors are more distinctive on tissue.
    options.sift.upright = True
    return options


def _verification_options(scale: float, seed: int) -> pycolmap.TwoViewGeometryOptions:
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.max_error = _MAX_EPIPOLAR_ERROR_PX / scale
    options.ransac.random_seed = seed
    # The round border of the content area is not a watermark.
    options.detect_watermark = False
    return options


def _open_database(path: Path, camera: pycolmap.Camera) -> int:
    """Create the database or open an existing one, and return the ID of its camera."""
    own_mapping_files(path.parent)
    try:
        with pycolmap.Database.open(path) as database:
            found = database.read_all_cameras()
            if not found:
                return int(database.write_camera(camera))
    except RuntimeError as error:
        raise LumenError(f"{path} is damaged or cannot be written: delete it and run again") from error
    if _facts(found[0]) != _facts(camera):
        raise LumenError(f"{path} was made with another camera: delete it and run again")
    return int(found[0].camera_id)


def _facts(camera: pycolmap.Camera) -> tuple[object, ...]:
    return camera.model, camera.width, camera.height, camera.has_prior_focal_length, *camera.params


def _extract(
    database: Path,
    paths: SequencePaths,
    frame_index: Sequence[int],
    reader: pycolmap.ImageReaderOptions,
    options: pycolmap.FeatureExtractionOptions,
) -> None:
    """Extract the features that are not in the database yet."""
    with ProgressBar("extracting SIFT", total=len(frame_index)) as bar:
        for start in range(0, len(frame_index), _FRAMES_AT_ONCE):
            batch = frame_index[start : start + _FRAMES_AT_ONCE]
            for masked in (True, False):
                # pycolmap skips a frame whose mask is missing if a mask folder is set.
                reader.mask_path = paths.frame_masks if masked else ""
                chosen = [index for index in batch if paths.frame_mask(index).exists() == masked]
                names = [paths.image(index).name for index in chosen if _can_be_read(paths.image(index))]
                if names:
                    # Always the CPU: the GPU implementation of SIFT differs, and the settings are not tuned for it.
                    pycolmap.extract_features(
                        database,
                        paths.images,
                        names,
                        pycolmap.CameraMode.SINGLE,
                        reader,
                        options,
                        pycolmap.Device.cpu,
                    )
            bar.update(len(batch))


def _can_be_read(path: Path) -> bool:
    """Whether the file exists and is complete; pycolmap would fill in the truncated part."""
    try:
        return not is_cut_off(path.read_bytes())
    except OSError:
        return False


def _pairs_to_match(database: Path, names: Sequence[str], log: Path) -> list[tuple[str, str]]:
    with pycolmap.Database.open(database) as opened:
        extracted = {image.name for image in opened.read_all_images() if opened.exists_descriptors(image.image_id)}
    without = [name for name in names if name not in extracted]
    if without:
        logger.warning("%d frames have no SIFT features, the first is %s; see %s", len(without), without[0], log)
    return [
        (name, other)
        for row, name in enumerate(names)
        for other in names[row + 1 : row + 1 + _OVERLAP_FRAMES]
        if name in extracted and other in extracted
    ]


def _match(database: Path, pairs: Sequence[tuple[str, str]], verification: pycolmap.TwoViewGeometryOptions) -> None:
    """Match and verify the pairs that the database does not have yet."""
    listing = database.with_suffix(".pairs.txt")
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listing
    with ProgressBar("matching SIFT", total=len(pairs), unit="pair") as bar:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            batch = pairs[start : start + _PAIRS_AT_ONCE]
            write_bytes(listing, "".join(f"{first} {second}\n" for first, second in batch).encode())
            pycolmap.match_image_pairs(
                database, pycolmap.FeatureMatchingOptions(), pairing, verification, pycolmap.Device.cpu
            )
            bar.update(len(batch))
    listing.unlink(missing_ok=True)


def _read(database: Path, names: Sequence[str]) -> tuple[list[Float32s], dict[tuple[int, int], Ints]]:
    """Keypoints (N, 2) of each image, and verified matches by two rows of `names`."""
    row = {name: number for number, name in enumerate(names)}
    keypoints = [np.zeros((0, 2), np.float32) for _ in names]
    rows = {}
    with pycolmap.Database.open(database) as opened:
        for image in opened.read_all_images():
            if image.name in row:
                rows[image.image_id] = row[image.name]
                keypoints[row[image.name]] = opened.read_keypoints(image.image_id)[:, :2]
        pair_ids, geometries = opened.read_two_view_geometries()
    matches = {}
    for pair_id, geometry in zip(pair_ids, geometries, strict=True):
        first, second = pycolmap.pair_id_to_image_pair(pair_id)
        if first in rows and second in rows:
            matches[rows[first], rows[second]] = np.asarray(geometry.inlier_matches).astype(np.int64)
    return keypoints, matches
