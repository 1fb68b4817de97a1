"""Keypoints and matches → COLMAP's database: the one place where correspondences are handed to pycolmap."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.errors import explain_os_errors
from sfm.colmap.writing import own_mapping_files

Pair = tuple[str, str]


def write_database(
    path: Path,
    camera: pycolmap.Camera,
    keypoints: Mapping[str, npt.NDArray[np.float32]],
    matches: Mapping[Pair, npt.NDArray[np.integer]],
) -> None:
    """Write a new database of images that share a camera.

    Args:
        path: where; an existing file is replaced.
        camera: of all images; its focal length is taken as known if `has_prior_focal_length` is set.
        keypoints: image's name → (N, 2) float32 px, COLMAP's convention: (0.5, 0.5) is the centre of the first pixel.
        matches: two names → (M, 2) zero-based rows of the keypoints of the first and of the second, not verified.

    Raises:
        ValueError: if a match is out of its image's range, as one-based indices are sooner or later.
        LumenError: if it cannot be written.
    """
    with explain_os_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own_mapping_files(path.parent)
        path.unlink(missing_ok=True)
    with pycolmap.Database.open(path) as database:
        camera_id = database.write_camera(camera)
        image_ids = {}
        for name, pixels in keypoints.items():
            image_ids[name] = database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
            database.write_keypoints(image_ids[name], np.ascontiguousarray(pixels, np.float32))
        for (first, second), rows in matches.items():
            limits = (len(keypoints[first]), len(keypoints[second]))
            if len(rows) and ((rows < 0).any() or (rows >= limits).any()):
                raise ValueError(f"a match of {first} and {second} names a keypoint outside 0..{limits}")
            database.write_matches(image_ids[first], image_ids[second], np.ascontiguousarray(rows, np.uint32))


def read_database(path: Path) -> tuple[dict[str, npt.NDArray[np.float32]], dict[Pair, npt.NDArray[np.int64]]]:
    """Read keypoints and matches back, as `write_database` takes them."""
    with pycolmap.Database.open(path) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        keypoints = {name: database.read_keypoints(image_id)[:, :2] for image_id, name in names.items()}
        pair_ids, matches = database.read_all_matches()
        pairs = [pycolmap.pair_id_to_image_pair(pair_id) for pair_id in pair_ids]
    return keypoints, {
        (names[first], names[second]): rows.astype(np.int64)
        for (first, second), rows in zip(pairs, matches, strict=True)
    }
