"""Functions that read files accept a path as str, Path, or any other path-like object."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_prep.calibration.files import read_calibration
from data_prep.video.frame_source import open_source
from descriptor.clips.data_root import DataSettings, find_sequences, load_clips
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.gift.images import ImageSet
from pipeline.command.config import load_config
from pipeline.data.depth_files import read_depth, read_depth_scale
from pipeline.data.sequence import Sequence
from pipeline.data.tracks import Tracks
from pipeline.data.training_files import read_mask, read_point_cloud, read_training_data
from pipeline.errors import LumenError
from sfm.input_video import InputVideo
from textured_plane import write_plane


class CustomPath(os.PathLike[str]):
    """A path-like object that is neither str nor Path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


FORMS = (str, Path, CustomPath)


@pytest.mark.parametrize("form", FORMS)
def test_training_data_is_read(form: Callable[[Path], Any], tmp_path: Path) -> None:
    root = tmp_path / "1" / "plane"
    write_plane(root, frames=3)
    assert len(read_training_data(form(root)).frame_index) == 3
    assert find_sequences(form(tmp_path)) == [root]
    settings = DataSettings(network_downsampling=32, cache_root=tmp_path / "cache")
    assert load_clips([form(root)], settings)[0].name == "1/plane"
    assert len(ImageSet.find(form(tmp_path))) == 3
    assert read_mask(form(root / "undistorted_mask.bmp")).any()
    assert len(read_point_cloud(form(root / "colmap" / "0" / "structure.ply"))[0]) > 0
    assert open_source(form(root / "images"), 30.0).info.width == 256


@pytest.mark.parametrize("form", FORMS)
def test_other_files_are_read(form: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("training_data_root: data\nlog_root: run\n")
    assert load_config(TrainConfig, form(tmp_path / "train.yaml")).log_root == Path("run")
    (tmp_path / "scale.yaml").write_text("world_units_per_step: 0.5\n")
    assert read_depth_scale(form(tmp_path / "scale.yaml")) == 0.5
    cv2.imwrite(str(tmp_path / "depth.png"), np.ones((4, 6), np.uint16))
    assert read_depth(form(tmp_path / "depth.png"), (6, 4)).shape == (4, 6)
    (tmp_path / "fisheye.txt").write_text("100 100 64 48 0 0 0 0")
    assert read_calibration(form(tmp_path / "fisheye.txt"), (128, 96)).model_name == "OPENCV_FISHEYE"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read", [InputVideo.read, Sequence.load, Tracks.load, read_training_data, open_source])
def test_a_missing_path_is_reported(read: Callable[..., Any], form: Callable[[Path], Any], tmp_path: Path) -> None:
    more = (30.0,) if read is open_source else ()
    with pytest.raises(LumenError, match="none"):
        read(form(tmp_path / "none"), *more)
