"""The first SfM of a part of a real sinus endoscopy; needs the folder that LUMEN_REAL_DATA names."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep import bootstrap, extract
from data_prep.bootstrap import BootstrapConfig
from data_prep.extract import ExtractConfig
from pipeline.command.config import configure
from pipeline.data.training_files import read_training_data
from sfm.evaluation.alignment import compare_paths

pytestmark = pytest.mark.skipif("LUMEN_REAL_DATA" not in os.environ, reason="LUMEN_REAL_DATA is not set")

# Three seconds: in one the camera hardly moves.
FRAMES = range(2640, 2730, 3)


def test_thirty_frames_at_1080p_agree_with_the_published_poses(tmp_path: Path) -> None:
    (published,) = (Path(os.environ["LUMEN_REAL_DATA"]) / "sinus" / "1").glob("_start_*")
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in FRAMES:
        shutil.copy(published / f"{index:08d}.jpg", frames)
    cameras = tmp_path / "cameras.txt"
    cameras.write_text("1 PINHOLE 1920 1080 666.214 666.214 919.521 542.141\n")
    extract.run(configure(ExtractConfig, video=frames, output=tmp_path / "sinus", calibration=cameras))
    (sequence,) = (tmp_path / "sinus").glob("_start_*")
    bootstrap.run(configure(BootstrapConfig, sequence=sequence, points=500))

    data, reference = read_training_data(sequence), read_training_data(published)
    assert data.frame_index.tolist() == list(FRAMES)
    assert len(data.points) > 1000
    rows = np.searchsorted(reference.frame_index, data.frame_index)
    difference = compare_paths(data.cam_from_world, reference.cam_from_world[rows])
    assert difference.ate < 0.1 * difference.extent
    assert np.median(difference.rotation_deg) < 5
