"""Synthetic tracks of a camera that moves through a tube of random points, with full ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap

from pipeline.arrays import Bools, Float64s
from pipeline.data.tracks import Tracks
from sfm.colmap.database import Pair
from sfm.mapping.triangulation import bearing_vectors, camera_centers

WIDTH, HEIGHT = 640, 512
# The radius of the tube is about 1.
STEP = 0.12
_NEAREST, _FARTHEST = 0.4, 5.0
_BEND = 0.12
# Frame indices differ from rows, so that tests detect code that confuses them.
_FIRST_INDEX, _STRIDE = 2603, 3

_PARAMS = {
    "PINHOLE": [520.0, 515.0, 322.5, 254.0],
    "SIMPLE_RADIAL": [430.0, 320.0, 256.0, -0.09],
    "OPENCV_FISHEYE": [330.0, 330.0, 320.0, 256.0, 0.03, -0.01, 0.0, 0.0],
}


@dataclass(frozen=True)
class SyntheticVideo:
    """Tracks and their ground truth.

    Attributes:
        camera: the camera of all frames.
        cam_from_world: (F, 3, 4).
        points: (T, 3), one for each track.
        tracks: O observations, with noise and outliers.
        outliers: (O,) which observations are outliers.
    """

    camera: pycolmap.Camera
    cam_from_world: Float64s
    points: Float64s
    tracks: Tracks
    outliers: Bools

    @property
    def centers(self) -> Float64s:
        """(F, 3) camera centres."""
        return camera_centers(self.cam_from_world)

    @property
    def true_pixels(self) -> Float64s:
        """(O, 2) float64, projections of the tracks' points with pycolmap's camera."""
        return project(self.camera, self.cam_from_world[self.tracks.frame], self.points[self.tracks.track])

    @property
    def true_rays(self) -> Float64s:
        """(O, 3), computed without rounding pixels to float32."""
        return bearing_vectors(self.camera, self.true_pixels)


def make_camera(model: str = "PINHOLE") -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=_PARAMS[model])


def make_video(
    frames: int = 40,
    points_per_frame: int = 250,
    *,
    model: str = "PINHOLE",
    noise_px: float = 0.0,
    outlier_share: float = 0.0,
    moving: bool = True,
    seed: int = 0,
) -> SyntheticVideo:
    """Create the video of a camera that moves along a curved tube.

    Args:
        frames: number of frames.
        points_per_frame: approximate number of observations per frame.
        model: camera model.
        noise_px: standard deviation of each pixel coordinate.
        outlier_share: share of observations with errors of 10 to 40 px.
        moving: False for a camera that only rotates.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    poses = fly(frames, rng) if moving else turn(frames)
    return _record(poses, points_per_frame, model, noise_px, outlier_share, rng)


def make_video_with_turns(
    moving: Sequence[int],
    turning: int,
    points_per_frame: int = 250,
    *,
    model: str = "PINHOLE",
    noise_px: float = 0.3,
    turned_rad: float = 0.6,
    seed: int = 0,
) -> SyntheticVideo:
    """Create the video of a camera that moves along a curved tube, and stops several times to rotate.

    Args:
        moving: number of frames of each part in which the camera moves.
        turning: number of frames of each stop, in which the camera rotates to either side and back.
        points_per_frame: approximate number of observations per frame.
        model: camera model.
        noise_px: standard deviation of each pixel coordinate.
        turned_rad: the largest rotation to either side.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    flight = fly(sum(moving), rng)
    angles = turned_rad * np.sin(2 * np.pi * np.arange(1, turning + 1) / (turning + 1))
    rotations = _small_rotations(angles[:, None] * [0.4, 0.9, 0.1])
    poses = []
    for part in np.split(flight, np.cumsum(moving)[:-1]):
        poses += [part, rotations @ part[-1]]
    return _record(np.concatenate(poses[:-1]), points_per_frame, model, noise_px, 0.0, rng)


def _record(
    poses: Float64s, points_per_frame: int, model: str, noise_px: float, outlier_share: float, rng: np.random.Generator
) -> SyntheticVideo:
    camera = make_camera(model)
    frame, point, cloud = _observe(camera, poses, points_per_frame, rng)
    numbers, track = np.unique(point, return_inverse=True)
    cloud = cloud[numbers]
    pixels = project(camera, poses[frame], cloud[track]) + rng.normal(0, noise_px, (len(frame), 2))
    outliers = rng.random(len(frame)) < outlier_share
    angle = rng.uniform(0, 2 * np.pi, len(frame))
    far = rng.uniform(10, 40, len(frame)) * outliers
    pixels += far[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    tracks = Tracks(
        frame_index=_FIRST_INDEX + _STRIDE * np.arange(len(poses)),
        frame=frame,
        track=track.astype(np.int64),
        pixels=pixels.astype(np.float32),
    )
    return SyntheticVideo(camera, poses, cloud, tracks, outliers)


def fly(frames: int, rng: np.random.Generator) -> Float64s:
    """Poses (F, 3, 4) near the tube's axis that look along it with small rotations."""
    along = STEP * np.arange(frames)
    side = 0.25 * np.column_stack([np.sin(1.3 * along), np.cos(1.7 * along)])
    to_world = _tube_frames(along)
    centers = _axis(along) + np.einsum("nij,nj->ni", to_world[:, :, :2], side)
    turned = _small_rotations(rng.normal(0, 0.02, (frames, 3)) + 0.1 * np.sin(along)[:, None] * [1, 0.5, 0.3])
    rotations = turned @ to_world.transpose(0, 2, 1)
    return np.concatenate([rotations, -rotations @ centers[:, :, None]], axis=2)


def turn(frames: int) -> Float64s:
    """Poses (F, 3, 4) at one position that rotate by about 30 degrees."""
    angle = np.linspace(-0.25, 0.25, frames)
    rotations = _small_rotations(angle[:, None] * [0.4, 1.0, 0.1])
    return np.concatenate([rotations, np.zeros((frames, 3, 1))], axis=2)


def project(camera: pycolmap.Camera, poses: Float64s, points: Float64s) -> Float64s:
    """Points (N, 3) in the frames of poses (N, 3, 4) → (N, 2) px."""
    in_camera = np.einsum("nij,nj->ni", poses[:, :, :3], points) + poses[:, :, 3]
    return np.asarray(camera.img_from_cam(np.ascontiguousarray(in_camera)))


def split_tracks(video: SyntheticVideo, row: int) -> SyntheticVideo:
    """Split all tracks at `row`, so that none has observations both before and after it."""
    later = video.tracks.frame >= row
    tracks = replace(video.tracks, track=video.tracks.track + later * video.tracks.track_count, track_count=0)
    return replace(video, tracks=tracks, points=np.concatenate([video.points, video.points])[: tracks.track_count])


def keypoints_and_matches(tracks: Tracks) -> tuple[list[str], dict[Pair, np.ndarray]]:
    """Names of frames, and matches of each frame with the next two, computed without the code under test."""
    names = [f"{index:08d}.jpg" for index in tracks.frame_index]
    matches = {}
    for first in range(len(names)):
        for second in range(first + 1, min(first + 3, len(names))):
            at = {track: place for place, track in enumerate(tracks.track[tracks.in_frame(second)].tolist())}
            of_first = tracks.track[tracks.in_frame(first)].tolist()
            rows = [(place, at[track]) for place, track in enumerate(of_first) if track in at]
            matches[names[first], names[second]] = np.array(rows, np.int64)
    return names, matches


def _axis(along: Float64s) -> Float64s:
    """(N, 3) positions on the tube's axis, which is an arc."""
    return np.column_stack([(1 - np.cos(_BEND * along)) / _BEND, 0 * along, np.sin(_BEND * along) / _BEND])


def _tube_frames(along: Float64s) -> Float64s:
    """(N, 3, 3) rotations; the columns are two directions across the tube and the one along it."""
    sine, cosine, zero, one = np.sin(_BEND * along), np.cos(_BEND * along), 0 * along, 0 * along + 1
    rows = [[cosine, zero, sine], [zero, one, zero], [-sine, zero, cosine]]
    return np.array(rows).transpose(2, 0, 1)


def _small_rotations(vectors: Float64s) -> Float64s:
    return np.array([pycolmap.Rotation3d(vector).matrix() for vector in vectors])


def _observe(
    camera: pycolmap.Camera, poses: Float64s, points_per_frame: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Float64s]:
    """Sample points on the rough wall so that frames observe `points_per_frame` on average.

    Returns:
        The frame and the point of each observation, and all points.
    """
    count = 4000
    along = rng.uniform(-1, STEP * len(poses) + _FARTHEST, count)
    angle = rng.uniform(0, 2 * np.pi, count)
    radius = rng.uniform(0.75, 1.15, count)
    ring = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    cloud = _axis(along) + np.einsum("nij,nj->ni", _tube_frames(along)[:, :, :2], ring)
    seen = np.array([_visible(camera, pose, cloud) for pose in poses])
    count = round(count * points_per_frame / max(points_per_frame, seen.sum(axis=1).mean()))
    frame, point = np.nonzero(seen[:, :count])
    return frame, point, cloud


def _visible(camera: pycolmap.Camera, pose: Float64s, cloud: Float64s) -> Bools:
    in_camera = cloud @ pose[:, :3].T + pose[:, 3]
    ahead = (in_camera[:, 2] > _NEAREST) & (in_camera[:, 2] < _FARTHEST)
    pixels = np.full((len(cloud), 2), -1.0)
    pixels[ahead] = np.asarray(camera.img_from_cam(np.ascontiguousarray(in_camera[ahead])))
    inside = ahead & (pixels > 0).all(axis=1) & (pixels < [WIDTH, HEIGHT]).all(axis=1)
    # Distortion can map points far outside the field of view back into the image.
    rays = bearing_vectors(camera, np.where(inside[:, None], pixels, 0))
    cosine = (rays * in_camera).sum(axis=1) / np.linalg.norm(in_camera, axis=1)
    return inside & (cosine > 1 - 1e-9)
