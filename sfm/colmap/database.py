"""Keypoints and matches ↔ COLMAP database: the only place that passes matches to pycolmap."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from pipeline.arrays import Float32s, Ints
from pipeline.errors import explain_os_errors
from sfm.colmap.writing import own_mapping_files

Pair = tuple[str, str]


def write_database(
    path: Path,
    camera: pycolmap.Camera,
    keypoints: Mapping[str, Float32s],
    matches: Mapping[Pair, npt.NDArray[np.integer]],
) -> None:
    """Write a new database of images that share a camera.

    Args:
        path: database to write; an existing file is replaced.
        camera: camera of all images; its focal length is trusted if `has_prior_focal_length` is set.
        keypoints: image name → (N, 2) float32 px in COLMAP's convention: (0.5, 0.5) is the centre of the first pixel.
        matches: two image names → (M, 2) zero-based keypoint indices in the first and second image, not verified.

    Raises:
        ValueError: if a match index is out of range, as one-based indices are.
        LumenError: if the database cannot be written.
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
                raise ValueError(f"a match of {first} and {second} has a keypoint index outside 0..{limits}")
            database.write_matches(image_ids[first], image_ids[second], np.ascontiguousarray(rows, np.uint32))


def read_database(path: Path) -> tuple[dict[str, Float32s], dict[Pair, Ints]]:
    """Read keypoints and matches in the form that `write_database` takes."""
    with pycolmap.Database.open(path) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        keypoints = {name: database.read_keypoints(image_id)[:, :2] for image_id, name in names.items()}
        pair_ids, matches = database.read_all_matches()
        pairs = [pycolmap.pair_id_to_image_pair(pair_id) for pair_id in pair_ids]
    return keypoints, {
        (names[first], names[second]): rows.astype(np.int64)
        for (first, second), rows in zip(pairs, matches, strict=True)
    }
