"""Extraction of a real sinus endoscopy; needs the folder in LUMEN_REAL_DATA."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.extract import ExtractConfig, run
from pipeline.command.config import configure
from pipeline.data.sequence import Sequence
from pipeline.paths import RunPaths
from videos import overlap, write_video

pytestmark = pytest.mark.skipif("LUMEN_REAL_DATA" not in os.environ, reason="LUMEN_REAL_DATA is not set")


@pytest.fixture(scope="module")
def clip() -> Path:
    (folder,) = (Path(os.environ["LUMEN_REAL_DATA"]) / "sinus" / "1").glob("_start_*")
    return folder


def test_content_area_of_the_sinus_clip_as_a_video(clip: Path, tmp_path: Path) -> None:
    """Encodes every tenth frame; the published mask belongs to the same frames."""
    images = [cv2.imread(str(path)) for path in sorted(clip.glob("*.jpg"))[::10]]
    video = write_video(
        tmp_path / "sinus.mp4",
        [image for image in images if image is not None],
        options={"crf": "20", "preset": "ultrafast"},
    )
    run(configure(ExtractConfig, video=video, output=tmp_path / "out", keep_all=True))
    published = cv2.imread(str(clip / "undistorted_mask.bmp"), cv2.IMREAD_GRAYSCALE)
    assert published is not None
    for paths in RunPaths(tmp_path / "out").sequences():
        mask = cv2.imread(str(paths.mask), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        assert overlap(mask, np.where(published > 127, 255, 0)) >= 0.95


def test_consecutive_frames_of_the_sinus_clip_are_all_kept_in_one_sequence(clip: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "cameras.txt"
    calibration.write_text("1 PINHOLE 1920 1080 666.214 666.214 919.521 542.141\n")
    run(configure(ExtractConfig, video=clip / "000026*.jpg", output=tmp_path / "out", calibration=calibration))
    (paths,) = RunPaths(tmp_path / "out").sequences()
    sequence = Sequence.load(paths.sequence)
    assert [frame.index for frame in sequence.frames] == list(range(2603, 2700))
    assert sequence.calibration.pinhole == [666.214, 666.214, 919.521, 542.141]
