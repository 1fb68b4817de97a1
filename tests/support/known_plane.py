"""A descriptor computed from the known geometry of a textured plane, with ground truth for every pixel."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from descriptor.base import Descriptor, DescriptorMap
from descriptor.flow.working_frames import WorkingFrames
from descriptor.matching.described_frames import DescribedFrames
from descriptor.matching.engines.torch_search import TorchSearch
from descriptor.matching.guided_finder import GuidedFinder
from descriptor.matching.matcher import SearchableFrame
from descriptor.network_frame import NetworkFrame
from pipeline.data.training_data import TrainingData
from pipeline.paths import SequencePaths
from textured_plane import HEIGHT, WIDTH, write_plane

FRAMES = 12
CELLS = (24, 32)


class PlaneMap(Descriptor):
    """Encodes the position of each cell on the plane as sines and cosines. `row` gives the frame being described."""

    name = "plane"
    length = 12

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self.asked: list[int] = []
        self.row = 0

    def describe(self, image: np.ndarray, mask: np.ndarray) -> DescriptorMap:
        frame = NetworkFrame((WIDTH, HEIGHT), (CELLS[1], CELLS[0]), (0, 0), CELLS)
        cells = np.stack(np.meshgrid(np.arange(CELLS[1]) + 0.5, np.arange(CELLS[0]) + 0.5), axis=2).reshape(-1, 2)
        place = on_plane(self._data, self.row, frame.image_from_network(cells)) * 2
        self.asked.append(self.row)
        waves = [
            wave(place[:, axis] * speed) for axis in (0, 1) for speed in (0.7, 1.9, 4.1) for wave in (np.sin, np.cos)
        ]
        values = torch.from_numpy(np.stack(waves).reshape(12, *CELLS)).float()
        return DescriptorMap(functional.normalize(values, dim=0), torch.from_numpy(frame.cut_mask(mask)), frame)


class PlaneFrames(DescribedFrames):
    def _describe(self, row: int) -> SearchableFrame | None:
        self._descriptor.row = row  # type: ignore[attr-defined]
        return super()._describe(row)


def on_plane(data: TrainingData, row: int, pixels: np.ndarray) -> np.ndarray:
    """Positions (N, 2) on the plane z = 0 of pixels (N, 2) of a frame."""
    pose, pinhole = data.cam_from_world[row], data.pinhole[row]
    rays = np.column_stack([(pixels - pinhole[2:]) / pinhole[:2], np.ones(len(pixels))]) @ pose[:, :3]
    center = -pose[:, :3].T @ pose[:, 3]
    return center[:2] - rays[:, :2] / rays[:, 2:] * center[2]


def moved(data: TrainingData, source: int, target: int, pixels: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) in frame `target` that correspond to pixels (N, 2) of frame `source`."""
    place = np.column_stack([on_plane(data, source, pixels), np.zeros(len(pixels))])
    pose, pinhole = data.cam_from_world[target], data.pinhole[target]
    in_camera = place @ pose[:, :3].T + pose[:, 3]
    return in_camera[:, :2] / in_camera[:, 2:] * pinhole[:2] + pinhole[2:]


class Plane:
    def __init__(self, folder: Path, held: int = 10) -> None:
        frame_bytes = 2 * 12 * CELLS[0] * CELLS[1] * 4
        self.data = write_plane(folder, frames=FRAMES)
        paths, index = SequencePaths(folder), self.data.frame_index.tolist()
        self.frames = WorkingFrames(paths, index, self.data.mask)
        self.descriptor = PlaneMap(self.data)
        self.described = PlaneFrames(self.descriptor, TorchSearch(), paths, index, self.data.mask, held * frame_bytes)
        self.guided = GuidedFinder(self.frames, self.described)
        columns, rows = np.meshgrid(np.arange(60, WIDTH - 60, 6), np.arange(50, HEIGHT - 50, 6))
        self.pixels = np.column_stack([columns.ravel(), rows.ravel()]).astype(np.float32)
