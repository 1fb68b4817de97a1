"""Make overview.jpg, the figure of the README: `python docs/make_figure.py RUN`.

RUN is the output of `lumensfm phantom phantom --frames 60` and then
`lumensfm reconstruct phantom/video.mp4 --calibration phantom/calibration.yaml --preset fast --output RUN`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import pycolmap

OUTPUT = Path(__file__).with_name("overview.jpg")
FRAME = 30
HEIGHT, CLOUD_WIDTH = 420, 560
# The viewer of the cloud looks from here at a point; both in the frame of the first camera: x right, y down, z ahead.
VIEWER, TARGET, FOCAL_PX = np.array([-0.5, -0.75, -0.95]), np.array([-0.2, -0.05, 0.65]), 590
BACKGROUND_BGR, TRAJECTORY_BGR = (28, 26, 24), (255, 176, 64)
JPEG_QUALITY = 88


def video_frame(video: Path, number: int) -> np.ndarray:
    """Return one frame (H, W, 3), uint8 BGR."""
    capture = cv2.VideoCapture(str(video))
    capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    return np.asarray(capture.read()[1])


def look_at(camera: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the pose cam_from_world (3, 4) of an upright camera that looks at a target."""
    ahead = (target - camera) / np.linalg.norm(target - camera)
    right = np.cross([0, 1, 0], ahead)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return np.column_stack([rotation, -rotation @ camera])


def project(points: np.ndarray, cam_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project points (N, 3) to integer pixels (N, 2) and depths (N,)."""
    in_camera = points @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    pixels = FOCAL_PX * in_camera[:, :2] / in_camera[:, 2:] + [CLOUD_WIDTH / 2, HEIGHT / 2]
    return np.floor(pixels).astype(int), in_camera[:, 2]


def draw_cloud(run: Path) -> np.ndarray:
    """Draw the dense points and the trajectory from behind the cameras, (HEIGHT, CLOUD_WIDTH, 3) uint8 BGR."""
    cloud = o3d.io.read_point_cloud(str(run / "points.ply"))
    images = sorted(pycolmap.Reconstruction(str(run / "sparse" / "0")).images.values(), key=lambda image: image.name)
    centers = np.array([image.projection_center() for image in images])
    view = look_at(VIEWER, TARGET)
    drawn = np.full((HEIGHT, CLOUD_WIDTH, 3), BACKGROUND_BGR, np.uint8)
    pixels, depth = project(np.asarray(cloud.points), view)
    shown = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < [CLOUD_WIDTH, HEIGHT]).all(axis=1)
    colors_bgr = 255 * np.asarray(cloud.colors)[:, ::-1]
    for row in np.flatnonzero(shown)[np.argsort(-depth[shown])]:
        column, line = pixels[row]
        drawn[line : line + 2, column : column + 2] = colors_bgr[row]
    trajectory, _ = project(centers, view)
    cv2.polylines(drawn, [trajectory.astype(np.int32)], False, TRAJECTORY_BGR, 2, cv2.LINE_AA)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output of lumensfm reconstruct")
    run: Path = parser.parse_args().run
    frame = cv2.imread(str(run / "images" / f"{FRAME:08d}.jpg"))
    panels = []
    for image in (np.asarray(frame), video_frame(run / "overlay.mp4", FRAME)):
        height, width = image.shape[:2]
        square = image[:, (width - height) // 2 : (width + height) // 2]
        panels.append(cv2.resize(square, (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(OUTPUT), np.hstack([*panels, draw_cloud(run)]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


if __name__ == "__main__":
    main()
