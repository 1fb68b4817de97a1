"""Overlay video: points projected into every frame. Accurate points stay on the same tissue."""

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pycolmap
from cv2.typing import MatLike as Image

from pipeline.arrays import Float64s
from pipeline.data.tracks import Tracks
from pipeline.outputs.file_names import ffmpeg_url
from pipeline.outputs.files import atomic_write
from pipeline.progress import progress

_MOST_WIDTH_PX = 960
_SHOWN_POINTS = 4000
_NEAR_FAR_QUANTILES = (0.02, 0.98)


def write_overlay(
    path: Path,
    read: Callable[[int], Image | None],
    tracks: Tracks,
    points: Float64s,
    camera: pycolmap.Camera,
    cam_from_world: Float64s,
    fps: float,
    why_no_pose: Callable[[int], str] = lambda _: "no pose",
) -> None:
    """Write a video of all frames with a sample of their observed points, projected with the estimated poses.

    Near points are red, far points blue. A point is drawn in every frame that observes it; a frame without a pose
    shows the reason instead.

    Args:
        path: MP4 file to write.
        read: frame row → (H, W, 3) uint8 BGR; None if the frame cannot be read.
        tracks: O observations of T points in F frames.
        points: (T, 3).
        camera: camera of all frames.
        cam_from_world: (F, 3, 4), NaN for frames without a pose.
        fps: frame rate, 1/s.
        why_no_pose: row of a frame without a pose → text to write on it.

    Raises:
        LumenError: if the video cannot be written.
    """
    scale = min(1.0, _MOST_WIDTH_PX / camera.width)
    # yuv420p needs an even width and height.
    size = (int(camera.width * scale) // 2 * 2, int(camera.height * scale) // 2 * 2)
    near, far = _depth_range(tracks, points, cam_from_world)
    # Sample by track number, so that a point does not flicker with the number of points in each frame.
    seen = np.bincount(tracks.frame, minlength=len(tracks.frame_index))
    tracks = tracks.select(tracks.track % max(1, round(float(np.median(seen)) / _SHOWN_POINTS)) == 0)
    with atomic_write(path) as partial, av.open(ffmpeg_url(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(max(1.0, fps)), options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for row in progress(range(len(tracks.frame_index)), "rendering overlay"):
            image = read(row)
            small = np.zeros((size[1], size[0], 3), np.uint8)
            if image is not None:
                small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            if np.isfinite(cam_from_world[row, 0, 0]):
                _draw(small, row, tracks, points, camera, cam_from_world, (near, far))
            else:
                _write_text(small, why_no_pose(row))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(small, format="bgr24")))
        container.mux(stream.encode())


def _in_camera(points: Float64s, pose: Float64s) -> Float64s:
    return points @ pose[:, :3].T + pose[:, 3]


def _depth_range(tracks: Tracks, points: Float64s, cam_from_world: Float64s) -> tuple[float, float]:
    some = slice(None, None, max(1, len(tracks.frame) // 100_000))
    poses = cam_from_world[tracks.frame[some]]
    depth = np.einsum("nj,nj->n", poses[:, 2, :3], points[tracks.track[some]]) + poses[:, 2, 3]
    depth = depth[np.isfinite(depth)]
    if not len(depth):
        return 0.0, 1.0
    near, far = np.quantile(depth, _NEAR_FAR_QUANTILES)
    return float(near), float(max(far, near + 1e-9))


def _write_text(small: Image, text: str) -> None:
    cv2.putText(small, text, (12, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 255), 2, cv2.LINE_AA)


def _draw(
    small: Image,
    row: int,
    tracks: Tracks,
    points: Float64s,
    camera: pycolmap.Camera,
    cam_from_world: Float64s,
    depths: tuple[float, float],
) -> None:
    track = tracks.track[tracks.in_frame(row)]
    in_camera = _in_camera(points[track], cam_from_world[row])
    in_camera = in_camera[in_camera[:, 2] > 0]
    if not len(in_camera):
        return
    pixels = np.asarray(camera.img_from_cam(np.ascontiguousarray(in_camera)))
    share = np.clip((in_camera[:, 2] - depths[0]) / (depths[1] - depths[0]), 0, 1)
    colors = cv2.applyColorMap(np.round(255 * (1 - share)).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0]
    places = np.round(pixels * (small.shape[1] / camera.width) - 0.5).astype(int)
    for (x, y), color in zip(places.tolist(), colors.tolist(), strict=True):
        cv2.circle(small, (x, y), 1, color, -1, cv2.LINE_AA)
