"""Training data from a phantom: pinhole frames with ground-truth poses, points and dense depth.

The world frame is the phantom's, in millimetres.
"""

from pathlib import Path

import cv2
import numpy as np
import pycolmap

from data_prep.calibration.undistort import Undistortion, plan_undistortion
from data_prep.selection.writer import FrameFormat, write_frames
from data_prep.simulation.endoscope import directions_from_img, pixel_centres
from data_prep.simulation.truth import OCCLUSION_TOLERANCE_MM, PhantomTruth
from data_prep.video.frame_source import open_source
from pipeline.arrays import Bools, Bytes, Float64s, Ints
from pipeline.conventions import colmap_from_index
from pipeline.data.depth_files import MOST_STEPS, write_depth, write_depth_scale
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.sequence_images import read_frame
from pipeline.data.training_data import TrainingData, inside_mask, project
from pipeline.data.training_files import write_training_data
from pipeline.errors import LumenError, require
from pipeline.paths import SequencePaths, TrainingPaths
from pipeline.progress import progress

_POINTS = 4000
_SEED = 0
# The maximum depth is estimated on a lattice; pixels between its points may be deeper.
_LATTICE_PX = 8
_ROOM_BEYOND_DEEPEST = 1.1


def is_phantom(folder: Path) -> bool:
    """Whether a folder was written by `data_prep/phantom.py`."""
    return PhantomPaths(folder).truth.is_file()


def write_phantom_training_data(phantom: Path, root: Path, jpeg_quality: int = 95) -> TrainingData:
    """Write a phantom as a sequence: frames, masks, depth maps, and layout 2 with the ground-truth model.

    Black frames and duplicates are left out. Depth is exact at pixel centres, up to rounding to 1/65535 of the maximum.
    A point's track lists every frame that sees it.

    Args:
        phantom: folder of the phantom.
        root: folder of the sequence, empty.
        jpeg_quality: quality of the frames, 1..100.

    Returns:
        The written data; lengths are in mm.

    Raises:
        LumenError: if the folder holds no phantom of this version; if it has hard cuts or fewer than two usable frames;
            if its video is missing, damaged or another phantom's; or if something cannot be written.
    """
    truth = PhantomTruth.load(phantom)
    frames = _usable_frames(truth, phantom)
    content = truth.content.mask()
    undistortion = plan_undistortion(truth.camera, content)
    view = _TrueViews(truth, undistortion.camera, np.asarray(undistortion.mask(content), np.uint8), frames)
    _write_frames(PhantomPaths(phantom).video, SequencePaths(root), frames, view.mask, undistortion, jpeg_quality)
    _write_depths(view, TrainingPaths(root))
    data = _model(view, SequencePaths(root))
    write_training_data(data, root)
    return data


def _usable_frames(truth: PhantomTruth, phantom: Path) -> Ints:
    """Indices (V,) of the frames with their own content."""
    usable = [frame for frame in truth.frames if not frame.is_black and not frame.is_duplicate]
    cuts = len({frame.segment for frame in usable}) - 1
    require(
        cuts < 1,
        f"{phantom} has hard cuts ({cuts}); training data needs a sequence without cuts: render it without --cuts",
    )
    require(
        len(usable) > 1,
        f"{phantom} has {len(usable)} frames that are neither black nor duplicates, training data needs 2: render more",
    )
    return np.array([frame.index for frame in usable], np.int64)


class _TrueViews:
    """The phantom's frames through a pinhole camera.

    Args:
        truth: the phantom.
        camera: PINHOLE.
        mask: (H, W) uint8, its content area, 255 inside.
        frames: (V,) int64, indices of the frames to use.
    """

    def __init__(self, truth: PhantomTruth, camera: pycolmap.Camera, mask: Bytes, frames: Ints) -> None:
        self.mask, self.frames = mask, frames
        self.cam_from_world = truth.cam_from_world[frames]
        self.pinhole = np.tile(np.asarray(camera.params, np.float64), (len(frames), 1))
        self._camera, self._scene = camera, truth.scene
        rotations, translations = self.cam_from_world[:, :, :3], self.cam_from_world[:, :, 3]
        self._centres = -np.einsum("nji,nj->ni", rotations, translations)

    def cast(self, view: int, pixels: Float64s) -> tuple[Float64s, Float64s]:
        """Depth (N,), mm, along the axis at pixels (N, 2), infinite without a surface, and the points (N, 3) there."""
        directions = directions_from_img(self._camera, pixels) @ self.cam_from_world[view, :, :3]
        depth = self._scene.cast_exactly(self._centres[view], directions)
        return depth, self._centres[view] + np.where(np.isfinite(depth), depth, 0)[:, None] * directions

    def sees(self, view: int, points: Float64s) -> Bools:
        """Which points (N, 3) a view sees: inside the content area and not occluded."""
        count = len(points)
        poses = np.broadcast_to(self.cam_from_world[view], (count, 3, 4))
        seen = inside_mask(*project(points, poses, np.broadcast_to(self.pinhole[view], (count, 4))), self.mask)
        rays = points[seen] - self._centres[view]
        nearest = self._scene.cast_exactly(self._centres[view], rays)
        seen[seen] = (1 - nearest) * np.linalg.norm(rays, axis=1) <= OCCLUSION_TOLERANCE_MM
        return seen


def _write_frames(
    video: Path,
    paths: SequencePaths,
    frames: Ints,
    mask: Bytes,
    undistortion: Undistortion,
    jpeg_quality: int,
) -> None:
    # This rate is only for folders of images; a video has its own timestamps.
    source = open_source(video, image_fps=1.0)
    expected = (mask.shape[1], mask.shape[0])
    found = (source.info.width, source.info.height)
    require(
        found == expected,
        f"{video} has {found[0]}x{found[1]} pixels, its ground truth {expected[0]}x{expected[1]}: render it again",
    )
    targets = {int(index): paths for index in frames}
    write_frames(source, targets, {}, FrameFormat(mask, undistortion, jpeg_quality))
    missing = [index for index in targets if not paths.image(index).exists()]
    if missing or source.losses():
        why = source.losses()[0] if source.losses() else f"frame {missing[0]} is missing"
        raise LumenError(f"{video} is damaged or belongs to another phantom ({why}): render it again")


def _write_depths(view: _TrueViews, paths: TrainingPaths) -> None:
    height, width = view.mask.shape
    # One pixel beyond the content area, so that depth can be interpolated up to its edge.
    wanted = cv2.dilate(view.mask, np.ones((3, 3), np.uint8)).ravel() > 0
    pixels = pixel_centres(width, height)[wanted]
    step_mm = _ROOM_BEYOND_DEEPEST * _deepest_mm(view) / MOST_STEPS
    for row, index in enumerate(progress(view.frames, "casting depth", total=len(view.frames))):
        depth = np.zeros(height * width)
        depth[wanted] = view.cast(row, pixels)[0]
        write_depth(paths.depth(int(index)), depth.reshape(height, width), step_mm)
    write_depth_scale(paths.depth_scale, step_mm)


def _deepest_mm(view: _TrueViews) -> float:
    rows, columns = (index[:: _LATTICE_PX**2] for index in np.nonzero(view.mask))
    pixels = colmap_from_index(np.column_stack([columns, rows]))
    depths = np.concatenate([view.cast(row, pixels)[0] for row in range(len(view.frames))])
    return float(depths[np.isfinite(depths)].max())


def _model(view: _TrueViews, paths: SequencePaths) -> TrainingData:
    points, colors = _sample_surface(view, paths)
    seen = np.column_stack([view.sees(row, points) for row in range(len(view.frames))])
    # A point in a single frame has no correspondence.
    shared = seen.sum(axis=1) > 1
    require(
        bool(shared.any()),
        "no two frames of the phantom show the same place: render it with more frames, or a higher --fps",
    )
    observation_point, observation_view = np.nonzero(seen[shared])
    return TrainingData(
        frame_index=view.frames,
        pinhole=view.pinhole,
        cam_from_world=view.cam_from_world,
        points=points[shared],
        colors=colors[shared],
        observation_point=observation_point,
        observation_view=observation_view,
        mask=view.mask,
        selected_index=view.frames,
        image_paths=[paths.image(int(index)) for index in view.frames],
    )


def _sample_surface(view: _TrueViews, paths: SequencePaths) -> tuple[Float64s, Bytes]:
    """Points (P, 3) at random pixels of every frame, and their RGB colours (P, 3)."""
    random = np.random.default_rng(_SEED)
    height, width = view.mask.shape
    rows, columns = np.nonzero(view.mask)
    points, colors = [], []
    for row, index in enumerate(view.frames):
        count = _POINTS * (row + 1) // len(view.frames) - _POINTS * row // len(view.frames)
        chosen = random.choice(len(rows), min(count, len(rows)), replace=False)
        image = read_frame(paths, int(index), (width, height))
        if image is None:
            raise LumenError(f"{paths.image(int(index))} was just written and cannot be read: check the disk")
        depth, found = view.cast(row, colmap_from_index(np.column_stack([columns[chosen], rows[chosen]])))
        hit = np.isfinite(depth)
        points.append(found[hit])
        colors.append(image[rows[chosen], columns[chosen], ::-1][hit])
    return np.concatenate(points), np.concatenate(colors).astype(np.uint8)
