"""python -m sfm.view RUN: the cloud and the cameras in Open3D's viewer, or as a picture."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open3d as o3d
import tyro

from pipeline.command.run_command import run_command
from pipeline.data.images import write_picture
from pipeline.data.training_data import TrainingData
from pipeline.errors import require
from sfm.display import require_display
from sfm.evaluate import read_reconstruction
from sfm.output.cloud_plot import draw_cloud, extent_points, mosaic, viewpoints

Floats = npt.NDArray[np.float64]

_FRUSTA = 60
_FRUSTUM_SHARE = 0.02
_SECONDS_BETWEEN_EVENTS = 0.01
_INSTEAD = "write a picture with --render cloud.png"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewConfig:
    """Look at a reconstruction."""

    run: tyro.conf.Positional[Path]
    """Folder of a reconstruction, of training data, or of a COLMAP model."""
    render: Path | None = None
    """Write a picture of it from four sides instead (.png); needs no display. A picture that LumenSfM drew is
    replaced."""
    size: tuple[int, int] = (1600, 1000)
    """Width and height of the window or picture, px."""

    def __post_init__(self) -> None:
        require(min(self.size) >= 64, f"--size {self.size[0]} {self.size[1]}: choose 64 or more")
        require(self.render is None or self.render.suffix == ".png", f"--render {self.render}: give the name of a .png")


def run(config: ViewConfig) -> Path | None:
    """Open the viewer, or write the picture and return it.

    Raises:
        LumenError: if there is no reconstruction, or no display to show it on.
    """
    if config.render is None:
        require_display(_INSTEAD)
    data = read_reconstruction(config.run)
    if not len(data.points):
        logger.info("%s has no points: only its cameras are shown", config.run)
    if config.render is not None:
        half = config.size[0] // 2, config.size[1] // 2
        write_picture(config.render, mosaic([draw_cloud(data, view, half) for view in viewpoints(data)]))
        return config.render
    viewer = o3d.visualization.Visualizer()
    width, height = config.size
    opened = viewer.create_window(window_name=str(config.run), width=width, height=height)
    require(opened, f"Open3D cannot open a window here, the display may offer no OpenGL 3.3: {_INSTEAD}")
    for geometry in ([_cloud(data)] if len(data.points) else []) + [_frusta(data)]:
        viewer.add_geometry(geometry)
    # viewer.run() would not let Python act on Ctrl-C before the window is closed.
    while viewer.poll_events():
        viewer.update_renderer()
        time.sleep(_SECONDS_BETWEEN_EVENTS)
    viewer.destroy_window()
    return None


def _cloud(data: TrainingData) -> o3d.geometry.PointCloud:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(data.points))
    if data.colors is not None:
        cloud.colors = o3d.utility.Vector3dVector(data.colors / 255.0)
    return cloud


def _frusta(data: TrainingData) -> o3d.geometry.LineSet:
    """Some of the cameras."""
    size = _FRUSTUM_SHARE * float(np.ptp(extent_points(data), axis=0).max() or 1.0)
    lines = o3d.geometry.LineSet()
    for row in np.unique(np.linspace(0, len(data.cam_from_world) - 1, _FRUSTA).astype(int)):
        fx, fy, cx, cy = data.pinhole[row]
        intrinsic = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        extrinsic = np.vstack([data.cam_from_world[row], [0, 0, 0, 1]])
        lines += o3d.geometry.LineSet.create_camera_visualization(
            data.width, data.height, intrinsic, extrinsic, scale=size
        )
    return lines


if __name__ == "__main__":
    sys.exit(run_command(ViewConfig, run))
