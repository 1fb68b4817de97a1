"""Extraction against exact ground truth: both anatomies, both lenses, black frames, duplicates and cuts."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pycolmap
import pytest
from cv2.typing import MatLike as Image

from data_prep import phantom
from data_prep.extract import ExtractConfig, run
from data_prep.phantom import PhantomConfig
from data_prep.simulation.truth import PhantomTruth
from data_prep.video.frame_source import open_source
from pipeline.command.config import configure
from pipeline.conventions import colmap_from_opencv, opencv_from_colmap
from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.sequence import Sequence
from pipeline.paths import RunPaths, SequencePaths
from videos import overlap

SIZE = (320, 256)
CASES: dict[str, dict[str, Any]] = {
    "colon": {"anatomy": "colon", "overlay_text": True, "black_s": 1.0, "frames": 55, "duplicates": 3, "cuts": 1},
    "colon fisheye": {"anatomy": "colon", "fisheye": True, "content_area": "rounded_rectangle", "duplicates": 2},
    "sinus": {"anatomy": "sinus", "content_area": "octagonal", "overlay_text": True, "cuts": 1, "duplicates": 2},
    "sinus fisheye": {"anatomy": "sinus", "fisheye": True, "overlay_text": True, "black_s": 0.4},
}


@dataclass(frozen=True)
class Case:
    """A phantom, and the extraction of its video with its calibration."""

    paths: PhantomPaths
    truth: PhantomTruth
    run: RunPaths

    @property
    def sequences(self) -> list[tuple[SequencePaths, Sequence]]:
        return [(paths, Sequence.load(paths.sequence)) for paths in self.run.sequences()]

    @property
    def mask(self) -> Image:
        mask = cv2.imread(str(self.paths.mask), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        return mask


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("phantom")
    settings = {"frames": 40, "size": SIZE, "fps": 15.0, "depth": False, "seed": 2, **CASES[request.param]}
    phantom.run(PhantomConfig(output=folder / "phantom", **settings))
    paths = PhantomPaths(folder / "phantom")
    run(configure(ExtractConfig, video=paths.video, output=folder / "out", calibration=paths.calibration))
    return Case(paths, PhantomTruth.load(paths.root), RunPaths(folder / "out"))


def test_indices_and_timestamps_match_ground_truth(case: Case) -> None:
    truth = {frame.index: frame.timestamp_s for frame in case.truth.frames}
    seen = [frame for _, sequence in case.sequences for frame in [*sequence.frames, *sequence.rejected]]
    assert sorted(frame.index for frame in seen) == sorted(truth)
    for frame in seen:
        assert frame.timestamp_s == pytest.approx(truth[frame.index], abs=1e-5)


def test_black_frames_and_duplicates_are_rejected_and_others_kept(case: Case) -> None:
    reasons = {frame.index: frame.reason for _, sequence in case.sequences for frame in sequence.rejected}
    assert {i for i, why in reasons.items() if why == "dark"} == {f.index for f in case.truth.frames if f.is_black}
    assert {i for i, why in reasons.items() if why == "duplicate"} == {
        f.index for f in case.truth.frames if f.is_duplicate
    }
    assert set(reasons.values()) <= {"dark", "duplicate"}


def test_cuts_are_detected_at_the_right_frames(case: Case) -> None:
    lit = [frame for frame in case.truth.frames if not frame.is_black and not frame.is_duplicate]
    expected: dict[int, list[int]] = {}
    for frame in lit:
        expected.setdefault(frame.segment, []).append(frame.index)
    found = [[frame.index for frame in sequence.frames] for _, sequence in case.sequences]
    assert found == list(expected.values())


def test_the_mask_is_the_content_area(case: Case) -> None:
    recorded = cv2.imread(str(case.run.content_area), cv2.IMREAD_GRAYSCALE)
    assert recorded is not None
    assert overlap(recorded, case.mask) >= 0.97


def test_written_frames_are_exactly_undistorted_video_frames(case: Case) -> None:
    """Each is the video's frame in the pinhole camera of `sequence.yaml`, to 0.5 px at the mask's edge."""
    originals = {f.index: f.image for f in open_source(case.paths.video, 30).frames()}
    paths, sequence = case.sequences[0]
    map_x, map_y = _truth_maps(case.truth.camera, sequence)
    frames = sequence.frames[:: max(1, len(sequence.frames) // 6)]
    mask = cv2.imread(str(paths.mask), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    shifts = []
    for frame in frames:
        written = cv2.imread(str(paths.image(frame.index)))
        assert written is not None
        expected = {
            index: cv2.bitwise_and(warped, warped, mask=mask)
            for index in range(frame.index - 1, frame.index + 2)
            if index in originals
            for warped in [cv2.remap(originals[index], map_x, map_y, cv2.INTER_LINEAR)]
        }
        errors = {index: cv2.norm(written, image, cv2.NORM_L1) for index, image in expected.items()}
        # The next frame may be an exact duplicate.
        assert errors[frame.index] <= 1.001 * min(errors.values())
        shifts.extend(_shifts_along_the_edge(written, expected[frame.index], mask))
    assert len(shifts) > 20
    assert np.max(shifts) < 0.5


def test_whole_content_area_is_kept(case: Case) -> None:
    _, sequence = case.sequences[0]
    assert sequence.calibration.content_kept == 1.0
    assert sequence.calibration.field_of_view_deg is not None
    true_deg = _largest_angle_deg(case.truth.camera, case.mask)
    assert sequence.calibration.field_of_view_deg[2] == pytest.approx(true_deg, abs=3)


def _truth_maps(camera: pycolmap.Camera, sequence: Sequence) -> tuple[Image, Image]:
    """Position of each pinhole pixel in the true camera's image, in OpenCV's convention."""
    assert sequence.calibration.pinhole is not None
    fx, fy, cx, cy = sequence.calibration.pinhole
    columns, rows = np.meshgrid(np.arange(sequence.width), np.arange(sequence.height))
    pixels = colmap_from_opencv(np.dstack([columns, rows]).reshape(-1, 2).astype(np.float64))
    rays = np.column_stack([(pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fy, np.ones(len(pixels))])
    maps = opencv_from_colmap(camera.img_from_cam(rays)).reshape(sequence.height, sequence.width, 2)
    return maps[..., 0].astype(np.float32), maps[..., 1].astype(np.float32)


def _shifts_along_the_edge(first: Image, second: Image, mask: Image) -> list[float]:
    """Shift in px between two images in textured windows just inside the mask's edge."""
    outline, _ = cv2.findContours(
        cv2.erode(mask, np.ones((51, 51), np.uint8)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    shifts = []
    for column, row in outline[0][:: max(1, len(outline[0]) // 16), 0]:
        window = np.s_[max(0, row - 24) : row + 24, max(0, column - 24) : column + 24]
        views: list[npt.NDArray[np.float32]] = [
            cv2.cvtColor(image[window], cv2.COLOR_BGR2GRAY).astype(np.float32) for image in (first, second)
        ]
        if views[0].std() > 6:
            hanning = cv2.createHanningWindow(views[0].shape[::-1], cv2.CV_32F)
            (dx, dy), response = cv2.phaseCorrelate(views[0], views[1], hanning)
            if response > 0.3:
                shifts.append(float(np.hypot(dx, dy)))
    return shifts


def _largest_angle_deg(camera: pycolmap.Camera, mask: Image) -> float:
    rows, columns = np.nonzero(mask)
    rays = camera.cam_from_img(np.column_stack([columns, rows]).astype(np.float64) + 0.5)
    outline = rays[np.linalg.norm(rays, axis=1) > 0.9 * np.linalg.norm(rays, axis=1).max()]
    directions = np.column_stack([outline, np.ones(len(outline))])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[:: max(1, len(directions) // 800)]
    return float(np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)).max()))
