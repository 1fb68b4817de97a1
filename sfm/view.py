"""python -m sfm.view RUN: show the point cloud and the cameras in Open3D's viewer, or render them to an image."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import ctypes
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import open3d as o3d
import tyro

from pipeline.command.bounds import Settings
from pipeline.command.run_command import run_command
from pipeline.data.images import write_plot
from pipeline.data.training_data import TrainingData
from pipeline.errors import require
from sfm.evaluate import read_reconstruction
from sfm.output.cloud_plot import draw_cloud, extent_points, mosaic, viewpoints

_FRUSTA = 60
_FRUSTUM_SHARE = 0.02
_SECONDS_BETWEEN_EVENTS = 0.01
_RENDER_HINT = "render an image with --render cloud.png"
_DISPLAY_SERVERS = {
    "WAYLAND_DISPLAY": ("libwayland-client.so.0", "wl_display_connect", "wl_display_disconnect"),
    "DISPLAY": ("libX11.so.6", "XOpenDisplay", "XCloseDisplay"),
}
_DISPLAY_TIMEOUT_S = 10.0

WindowSide = Annotated[int, msgspec.Meta(ge=64)]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewConfig(Settings):
    """Show a reconstruction."""

    run: tyro.conf.Positional[Path]
    """Folder of a reconstruction, of training data, or of a COLMAP model."""
    render: Path | None = None
    """Render four views to this .png without a display. Only an image that LumenSfM rendered is replaced."""
    size: tuple[WindowSide, WindowSide] = (1600, 1000)
    """Width and height of the window or image, px."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.render is None or self.render.suffix == ".png", f"--render {self.render}: give the name of a .png")


def run(config: ViewConfig) -> Path | None:
    """Open the viewer, or write the image and return its path.

    Raises:
        LumenError: if there is no reconstruction, or no display to show it on.
    """
    if config.render is None:
        require_display(_RENDER_HINT)
    data = read_reconstruction(config.run)
    if not len(data.points):
        logger.info("%s has no points: only its cameras are shown", config.run)
    if config.render is not None:
        half = config.size[0] // 2, config.size[1] // 2
        write_plot(config.render, mosaic([draw_cloud(data, view, half) for view in viewpoints(data)]))
        return config.render
    viewer = o3d.visualization.Visualizer()
    width, height = config.size
    opened = viewer.create_window(window_name=str(config.run), width=width, height=height)
    require(opened, f"Open3D cannot open a window; the display may lack OpenGL 3.3: {_RENDER_HINT}")
    for geometry in ([_cloud(data)] if len(data.points) else []) + [_frusta(data)]:
        viewer.add_geometry(geometry)
    # viewer.run() keeps Python from handling Ctrl-C until the window is closed.
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
    """Frusta of a sample of the cameras."""
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


def require_display(alternative: str) -> None:
    """Check that a Wayland or X11 server responds, as GLFW does; without one Open3D renders to memory forever.

    Args:
        alternative: what to do without a display, the end of the error message.

    Raises:
        LumenError: if neither `DISPLAY` nor `WAYLAND_DISPLAY` is set, or no server responds there.
    """
    if not sys.platform.startswith("linux"):
        return
    named = {name: os.environ[name] for name in _DISPLAY_SERVERS if os.environ.get(name)}
    require(bool(named), f"there is no display: {alternative}")
    addresses = ", ".join(f"{name}={value}" for name, value in named.items())
    require(any(map(_responds, named)), f"no display responds at {addresses}: {alternative}")


def _responds(name: str) -> bool:
    """Whether the server in an environment variable accepts a client within `_DISPLAY_TIMEOUT_S`."""
    connected = threading.Event()
    # A host that drops packets blocks the library for minutes.
    client = threading.Thread(target=_connect, args=(*_DISPLAY_SERVERS[name], connected), daemon=True)
    client.start()
    client.join(_DISPLAY_TIMEOUT_S)
    return connected.is_set()


def _connect(library_name: str, connect: str, disconnect: str, connected: threading.Event) -> None:
    try:
        library = ctypes.CDLL(library_name)
    except OSError:
        # GLFW loads the same library, so it cannot connect either.
        return
    function = getattr(library, connect)
    function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_void_p
    display = function(None)
    if display:
        connected.set()
        getattr(library, disconnect)(ctypes.c_void_p(display))


if __name__ == "__main__":
    sys.exit(run_command(ViewConfig, run))
