"""Round trip of training data through COLMAP models: poses within 1e-9, tracks exactly."""

import os
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from pipeline.data.training_data import TrainingData
from pipeline.data.training_files import read_training_data
from pipeline.errors import LumenError
from scenes import scene
from sfm.colmap.model import frame_number, model_from_training_data, read_model, training_data_from_model


def through_colmap(data: TrainingData, folder: Path, *, text: bool = False) -> TrainingData:
    folder.mkdir(exist_ok=True)
    model = model_from_training_data(data)
    model.write_text(folder) if text else model.write_binary(folder)
    image_paths = {path.name: path for path in data.image_paths}
    return training_data_from_model(read_model(folder), data.mask, data.selected_index, image_paths)


def assert_same(read: TrainingData, data: TrainingData) -> None:
    np.testing.assert_allclose(read.cam_from_world, data.cam_from_world, atol=1e-9)
    np.testing.assert_allclose(read.points, data.points, atol=1e-9)
    np.testing.assert_allclose(read.pinhole, data.pinhole, atol=1e-9)
    for name in ("frame_index", "observation_point", "observation_view", "mask", "selected_index"):
        np.testing.assert_array_equal(getattr(read, name), getattr(data, name))
    assert list(read.image_paths) == list(data.image_paths)


@pytest.mark.parametrize("text", [False, True])
def test_round_trip_through_colmap(tmp_path: Path, text: bool) -> None:
    data = scene()
    read = through_colmap(data, tmp_path / "model", text=text)
    assert_same(read, data)
    np.testing.assert_array_equal(read.colors, data.colors)


def test_intrinsics_of_each_view_are_kept(tmp_path: Path) -> None:
    data = scene()
    pinhole = data.pinhole + np.arange(len(data.pinhole))[:, None] // 2
    read = through_colmap(TrainingData(**{**vars(data), "pinhole": pinhole}), tmp_path / "model")
    np.testing.assert_allclose(read.pinhole, pinhole)
    assert len(read_model(tmp_path / "model").cameras) == 4


def test_observations_lie_where_colmap_projects_the_points() -> None:
    model = model_from_training_data(scene())
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-9
    assert model.compute_num_observations() == len(scene().observation_point)


def test_a_point_without_observations_is_kept(tmp_path: Path) -> None:
    data = scene()
    seen = data.observation_point != 5
    fewer = TrainingData(
        **{
            **vars(data),
            "observation_point": data.observation_point[seen],
            "observation_view": data.observation_view[seen],
        }
    )
    assert_same(through_colmap(fewer, tmp_path / "model"), fewer)


def test_a_missing_or_damaged_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="holds no COLMAP model"):
        read_model(tmp_path)
    (tmp_path / "cameras.bin").write_bytes(b"broken")
    with pytest.raises(LumenError, match="cameras.bin is truncated or damaged"):
        read_model(tmp_path)


def test_a_camera_with_distortion_or_the_wrong_size_is_refused() -> None:
    data = scene()
    image_paths = {path.name: path for path in data.image_paths}
    model = model_from_training_data(data)
    model.cameras[1].model = pycolmap.CameraModelId.OPENCV
    model.cameras[1].params = [90, 91, 80, 60, 0.1, 0, 0, 0]
    with pytest.raises(LumenError, match="undistort the model"):
        training_data_from_model(model, data.mask, data.selected_index, image_paths)
    with pytest.raises(LumenError, match="but the mask 40x30"):
        training_data_from_model(
            model_from_training_data(data), np.zeros((30, 40), np.uint8), data.selected_index, image_paths
        )


def test_the_frame_index_is_the_last_number_in_the_name() -> None:
    assert frame_number("images/00002603.jpg") == 2603
    assert frame_number("case12_frame_7.png") == 7
    with pytest.raises(LumenError, match="no number"):
        frame_number("last.png")


@pytest.mark.skipif("LUMEN_REAL_DATA" not in os.environ, reason="LUMEN_REAL_DATA is not set")
def test_round_trip_of_the_published_example(tmp_path: Path) -> None:
    (root,) = (Path(os.environ["LUMEN_REAL_DATA"]) / "sinus" / "1").glob("_start_*")
    data = read_training_data(root)
    assert_same(through_colmap(data, tmp_path / "model"), data)
