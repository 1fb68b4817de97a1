"""Ground truth of a rendered video: its files, and queries answered by ray casting."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import pycolmap

from data_prep.calibration.files import write_calibration
from data_prep.simulation.endoscope import ContentArea, directions_from_img, pixel_centres
from data_prep.simulation.motion import Timeline
from data_prep.simulation.scene import SurfaceScene
from data_prep.simulation.surface import Mesh
from pipeline.arrays import Bools, Float32s, Float64s
from pipeline.data.images import write_image
from pipeline.data.phantom_files import DEPTH_UNIT_MM, FORMAT_VERSION, FrameTruth, PhantomPaths, read_facts
from pipeline.errors import LumenError, explain_os_errors
from pipeline.outputs.files import atomic_write, write_yaml

OCCLUSION_TOLERANCE_MM = 0.005


@dataclass(frozen=True)
class PhantomTruth:
    """Exact ground truth of a phantom video. World unit: mm; pixels in COLMAP's convention.

    Attributes:
        config: the settings of the phantom, as in `truth.yaml`.
        camera: PINHOLE or OPENCV_FISHEYE.
        content: the content area.
        frames: one entry per frame of the video.
        cam_from_world: (N, 3, 4) float64. A duplicate has the pose of its content; a black frame has the camera's pose.
        mesh: all surfaces.
        scene: all surfaces, for ray casting.
    """

    config: dict[str, Any]
    camera: pycolmap.Camera
    content: ContentArea
    frames: tuple[FrameTruth, ...]
    cam_from_world: Float64s
    mesh: Mesh
    scene: SurfaceScene

    @classmethod
    def load(cls, root: Path | str) -> "PhantomTruth":
        """Read the ground truth of a phantom.

        Raises:
            LumenError: if `root` holds no phantom, or one of another format version.
        """
        paths = PhantomPaths(Path(root))
        facts = read_facts(paths)
        camera = pycolmap.Camera(**facts["camera"], camera_id=1)
        mesh = read_mesh(paths.mesh)
        with explain_os_errors("read", paths.poses):
            poses = np.load(paths.poses)
        return cls(
            config=facts["config"],
            camera=camera,
            content=ContentArea(facts["content_area"], camera.width, camera.height),
            frames=tuple(FrameTruth(**frame) for frame in facts["frames"]),
            cam_from_world=poses,
            mesh=mesh,
            scene=SurfaceScene(mesh),
        )

    def depth(self, frame: int) -> Float32s:
        """Depth along the optical axis at every pixel centre: (H, W) float32, mm; 0 = black or outside."""
        image = np.zeros(self.camera.height * self.camera.width, dtype=np.float32)
        if not self.frames[frame].is_black:
            points = pixel_centres(self.camera.width, self.camera.height)
            inside = self.content.contains(points)
            depth, _ = self._cast(frame, points[inside])
            image[inside] = np.where(np.isfinite(depth), depth, 0)
        return image.reshape(self.camera.height, self.camera.width)

    def points(self, frame: int, pixels: Float64s) -> tuple[Float64s, Bools]:
        """The surface points (N, 3), mm, at pixels (N, 2) of a frame, and whether each pixel shows a surface (N,)."""
        depth, directions = self._cast(frame, np.asarray(pixels, dtype=np.float64))
        shown = np.isfinite(depth) & self.content.contains(pixels) & (not self.frames[frame].is_black)
        return self._centre(frame) + np.where(shown, depth, 0)[:, None] * directions, shown

    def correspondence(self, frame_a: int, frame_b: int, pixels: Float64s) -> tuple[Float64s, Bools]:
        """Find the pixels of frame a in frame b.

        Args:
            frame_a, frame_b: frame indices.
            pixels: (N, 2) float64, COLMAP px, in frame a.

        Returns:
            Points (N, 2) float64 in frame b, NaN if pixel a shows no surface or the point is not in front of b; and
            visible (N,) bool: in b's content area, in front of b, and no surface more than OCCLUSION_TOLERANCE_MM
            nearer on the same ray.
        """
        points, shown = self.points(frame_a, pixels)
        pose = self.cam_from_world[frame_b]
        in_camera = points @ pose[:, :3].T + pose[:, 3]
        shown = shown & (in_camera[:, 2] > 1e-3)
        projected = np.full((len(points), 2), np.nan)
        projected[shown] = self.camera.img_from_cam(in_camera[shown])
        visible = shown & (not self.frames[frame_b].is_black)
        visible[shown] &= self.content.contains(projected[shown])
        rays = points[visible] - self._centre(frame_b)
        nearest = self.scene.cast_exactly(self._centre(frame_b), rays)
        visible[visible] = (1 - nearest) * np.linalg.norm(rays, axis=-1) <= OCCLUSION_TOLERANCE_MM
        return projected, visible

    def distance_to_surface(self, points_mm: Float64s) -> Float64s:
        """Distance of world points (N, 3) to the nearest surface: (N,), mm."""
        return self.scene.distance_mm(np.asarray(points_mm, dtype=np.float64))

    def _cast(self, frame: int, pixels: Float64s) -> tuple[Float64s, Float64s]:
        """Depth (N,) along the optical axis, infinite for a miss, and world directions (N, 3) with unit depth."""
        directions = directions_from_img(self.camera, pixels) @ self.cam_from_world[frame, :, :3]
        return self.scene.cast_exactly(self._centre(frame), directions), directions

    def _centre(self, frame: int) -> Float64s:
        pose = self.cam_from_world[frame]
        return -pose[:, :3].T @ pose[:, 3]


def frame_truths(timeline: Timeline, timestamps_s: Float64s, gains: Float64s) -> tuple[FrameTruth, ...]:
    """One entry per frame, from arrays (N,)."""
    return tuple(
        FrameTruth(
            index=index,
            timestamp_s=float(timestamps_s[index]),
            segment=int(timeline.segment[index]),
            content_index=int(timeline.content_index[index]),
            is_duplicate=bool(timeline.is_duplicate[index]),
            is_black=bool(timeline.is_black[index]),
            exposure_gain=round(float(gains[index]), 6),
        )
        for index in range(len(timestamps_s))
    )


def write_truth(paths: PhantomPaths, truth: PhantomTruth) -> list[Path]:
    """Write everything except the video and the depth maps; return the written files."""
    camera = truth.camera
    with atomic_write(paths.mesh) as partial:
        write_mesh(partial, truth.mesh)
    with atomic_write(paths.poses) as partial, partial.open("wb") as stream:
        np.save(stream, truth.cam_from_world)
    write_image(paths.mask, truth.content.mask())
    write_calibration(paths.calibration, camera, {})
    facts = {
        "format_version": FORMAT_VERSION,
        "world_unit": "mm",
        "depth_unit_mm": DEPTH_UNIT_MM,
        "pixel_convention": "COLMAP: the centre of the first pixel is (0.5, 0.5)",
        "config": truth.config,
        "content_area": truth.content.shape,
        "camera": {
            "model": camera.model_name,
            "width": camera.width,
            "height": camera.height,
            "params": [float(value) for value in camera.params],
        },
        "frames": [asdict(frame) for frame in truth.frames],
    }
    write_yaml(paths.truth, facts)
    return [paths.truth, paths.calibration, paths.poses, paths.mask, paths.mesh]


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a binary PLY with float32 vertices, which reads back exactly."""
    geometry = o3d.t.geometry.TriangleMesh(
        o3d.core.Tensor.from_numpy(mesh.vertices_mm), o3d.core.Tensor.from_numpy(mesh.triangles.astype(np.int32))
    )
    if not o3d.t.io.write_triangle_mesh(path, geometry):
        raise LumenError(f"cannot write {path}: is the disk full, or the folder write-protected?")


def read_mesh(path: Path) -> Mesh:
    """Read a mesh written by `write_mesh`.

    Raises:
        LumenError: if the file holds no mesh.
    """
    geometry = o3d.t.io.read_triangle_mesh(path) if path.is_file() else None
    if geometry is None or "positions" not in geometry.vertex:
        raise LumenError(f"{path} holds no mesh: render the phantom again")
    vertices = geometry.vertex["positions"].numpy().astype(np.float32)
    return Mesh(vertices, geometry.triangle["indices"].numpy().astype(np.uint32))
