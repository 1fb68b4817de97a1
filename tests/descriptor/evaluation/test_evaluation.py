"""Matching errors of a perfect descriptor, flow and chance on a textured plane, and hand-counted metrics."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from descriptor.base import Descriptor, DescriptorMap
from descriptor.clips.clip import Clip
from descriptor.clips.data_root import DataSettings, find_sequences, load_clips
from descriptor.dense_sift import DenseSift
from descriptor.evaluation.flow_matching import FlowMatcher, TrackMatcher
from descriptor.evaluation.pair_matching import DescriptorMatcher, RandomMatcher
from descriptor.evaluation.pck import Errors, Sampling, evaluate, sample_pairs
from descriptor.evaluation.report import table
from descriptor.evaluation.sequences import TestConfig, measure
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.network_frame import NetworkFrame
from pipeline.command.config import load_config, parse_command_line
from pipeline.errors import LumenError
from textured_plane import write_plane
from traces import MACHINE, files_that_say, name_the_machine

REAL_DATA = os.environ.get("LUMEN_REAL_DATA")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_plane(tmp_path / "data" / "1" / "plane", frames=12)
    return tmp_path / "data"


@pytest.fixture
def clip(root: Path, tmp_path: Path) -> Clip:
    settings = DataSettings(image_downsampling=2.0, network_downsampling=32, cache_root=tmp_path / "cache")
    return load_clips(find_sequences(root), settings)[0]


class PlaneDescriptor(Descriptor):
    """Encodes the plane position of each pixel as a smooth vector."""

    name = "plane"
    length = 4

    def __init__(self, clip: Clip) -> None:
        self._clip, self._row = clip, 0

    def describe(self, image: np.ndarray, mask: np.ndarray) -> DescriptorMap:
        frame = NetworkFrame.of_mask(mask, 2.0, (96, 128))
        rows = [row for row in range(len(self._clip.frame_index)) if self._is(image, row)]
        data = self._clip.correspondence._data  # type: ignore[attr-defined]
        pose, pinhole = data.cam_from_world[rows[0]], data.pinhole[rows[0]]
        cells = np.stack(np.meshgrid(np.arange(128) + 0.5, np.arange(96) + 0.5), axis=2)
        pixels = frame.image_from_network(cells)
        rays = np.concatenate([(pixels - pinhole[2:]) / pinhole[:2], np.ones((96, 128, 1))], axis=2) @ pose[:, :3]
        centre = -pose[:, :3].T @ pose[:, 3]
        places = centre[:2] - rays[..., :2] * (centre[2] / rays[..., 2:])
        values = np.concatenate([np.sin(places), np.cos(places)], axis=2) / np.sqrt(2)
        return DescriptorMap(torch.from_numpy(values.transpose(2, 0, 1)), torch.from_numpy(frame.cut_mask(mask)), frame)

    def _is(self, image: np.ndarray, row: int) -> bool:
        return bool(np.array_equal(self._clip.frame.cut(image), self._clip.images[row]))


def test_a_perfect_descriptor_matches_every_point_with_subcell_accuracy(clip: Clip) -> None:
    pairs = sample_pairs([clip], Sampling(pairs=4, adjacent_range=(1, 10)))
    errors = evaluate([DescriptorMatcher(PlaneDescriptor(clip))], pairs, 2.0)["plane"]
    for distances in pairs:
        assert errors.pck(distances, 1.0) == 1.0
        assert errors.median_px(distances) < 0.2


def test_flow_matches_near_frames_and_chance_matches_almost_nothing(clip: Clip) -> None:
    pairs = sample_pairs([clip], Sampling(pairs=6, adjacent_range=(1, 3)))
    results = evaluate([FlowMatcher(), RandomMatcher(0)], pairs, 1.0)
    assert results["dis"].pck((1, 3), 3.0) > 0.9
    assert results["dis"].median_px((1, 3)) < 1.0
    area = np.pi * 10**2 / (clip.content > 0).sum()
    assert results["random"].pck((1, 3), 10.0) == pytest.approx(area, abs=0.02)


def test_tracked_points_are_correct_or_lost(clip: Clip) -> None:
    pairs = sample_pairs([clip], Sampling(pairs=6, adjacent_range=(4, 11)))
    errors = evaluate([TrackMatcher()], pairs, 1.0)["tracked"]
    for distances in pairs:
        found = errors.of_found()
        assert len(found.at(distances)) > 0.3 * len(errors.at(distances))
        assert found.median_px(distances) < 0.7
        # Flow is computed at half the recorded size.
        assert found.pck(distances, 2.0) > 0.9


def test_dense_sift_matches_near_frames_of_a_strong_texture(clip: Clip) -> None:
    pairs = sample_pairs([clip], Sampling(pairs=4, adjacent_range=(1, 2)))
    assert evaluate([DescriptorMatcher(DenseSift())], pairs, 4.0)["dense_sift"].pck((1, 2), 3.0) > 0.8


def test_pck_and_medians_equal_hand_counts() -> None:
    errors = Errors({(1, 5): [np.array([0.0, 5.0, 5.001]), np.array([np.nan])], (6, 10): []})
    assert errors.pck((1, 5), 5) == 0.5
    assert errors.pck((1, 5), 6) == 0.75
    assert errors.median_px((1, 5)) == pytest.approx(5.0005)
    assert np.isnan(errors.pck((6, 10), 5)) and np.isnan(errors.median_px((6, 10)))
    assert errors.of_found().pck((1, 5), 5) == pytest.approx(2 / 3)
    assert len(errors.of_found().at((1, 5))) == 3
    lines = table({"some": errors}, (5, 10, 20)).splitlines()
    assert lines[1].split() == ["1-5", "some", "0.500", "0.750", "0.750", "5.00", "4"]
    assert lines[2].split() == ["6-10", "some", "-", "-", "-", "-", "0"]


def test_pairs_respect_distance_and_share_and_repeat_with_the_seed(clip: Clip) -> None:
    sampling = Sampling(pairs=15, points=20, frame_share=(0.25, 1.0), adjacent_range=(2, 7))
    first, again = sample_pairs([clip], sampling), sample_pairs([clip], sampling)
    assert list(first) == [(2, 5), (6, 7)]
    for (low, high), pairs in first.items():
        assert len(pairs) == 15
        for pair, same in zip(pairs, again[low, high], strict=True):
            assert low <= abs(pair.source - pair.target) <= high
            assert min(pair.source, pair.target) >= 3
            assert 0 < len(pair.points) <= 20
            np.testing.assert_array_equal(pair.points, same.points)
    assert {np.sign(pair.target - pair.source) for pair in first[2, 5]} == {-1, 1}


def test_larger_distances_have_their_own_bin() -> None:
    assert Sampling(adjacent_range=(50, 100)).distances() == [(50, 60), (61, 100)]
    assert Sampling(adjacent_range=(70, 80)).distances() == [(70, 80)]


def test_no_pairs_at_any_distance_is_an_error_with_advice(clip: Clip) -> None:
    with pytest.raises(LumenError, match="widen --adjacent_range"):
        sample_pairs([clip], Sampling(adjacent_range=(40, 50)))


@pytest.fixture
def config(root: Path, tmp_path: Path) -> TestConfig:
    return TestConfig(
        testing_data_root=root,
        log_root=tmp_path / "log",
        cache_root=tmp_path / "cache",
        adjacent_range=(1, 8),
        pairs_per_distance=2,
        pixel_downsampling=2.0,
        device="cpu",
    )


def test_a_checkpoint_is_measured_with_the_baselines(
    config: TestConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name_the_machine(monkeypatch)
    training = TrainConfig(
        training_data_root=config.testing_data_root,
        log_root=tmp_path / "run",
        cache_root=config.cache_root,
        network_downsampling=32,
        adjacent_range=(1, 5),
        batch_size=1,
        group_frames=2,
        num_epoch=1,
        num_iter=1,
        feature_length=16,
        filter_growth_rate=2,
        device="cpu",
    )
    config = replace(config, trained_model_path=train(training)[0])
    outputs = measure(config)
    assert all(output.is_file() for output in outputs)
    numbers = json.loads((config.log_root / "pck.json").read_text())
    assert list(numbers) == ["fcdensenet", "dis", "dense_sift", "random", "tracked"]
    assert list(numbers["dis"]) == ["1-5", "6-8"]
    assert capsys.readouterr().out.strip() == (config.log_root / "pck.txt").read_text().strip()
    measure(replace(config, image_downsampling=3.0, baselines=(), reference_floor=False))
    compared = [outputs[0].parent.parent / "run" / "last.pt"] * 2
    measure(replace(config, compared_model_paths=compared, baselines=(), reference_floor=False))
    assert list(json.loads((config.log_root / "pck.json").read_text())) == ["fcdensenet", "fcdensenet_2"]
    assert not files_that_say(config.log_root, str(tmp_path), MACHINE)
    named = replace(config, compared_model_paths=compared, baselines=(), reference_floor=False, record_path=True)
    measure(named)
    assert list(json.loads((config.log_root / "pck.json").read_text())) == ["fcdensenet", str(compared[0])]
    assert load_config(TestConfig, config.log_root / "test.yaml") == named
    with pytest.raises(LumenError, match="--feature_length 256: .* was trained with 16"):
        measure(replace(config, feature_length=256))


def test_without_a_checkpoint_only_baselines_are_measured(config: TestConfig) -> None:
    measure(replace(config, baselines=("random",), reference_floor=False))
    assert list(json.loads((config.log_root / "pck.json").read_text())) == ["random"]
    with pytest.raises(LumenError, match="nothing to measure"):
        replace(config, baselines=())


def test_ddls_command_line_is_accepted() -> None:
    line = (
        "--adjacent_range 1 50 --image_downsampling 4.0 --network_downsampling 64 --input_size 256 320 --num_workers 4 "
        "--num_pre_workers 4 --inlier_percentage 0.99 --testing_patient_id 1 --load_intermediate_data "
        "--visibility_overlap 20 --display_architecture --trained_model_path FILE --testing_data_root DIR "
        "--log_root DIR --feature_length 256 --filter_growth_rate 10 --keypoints_per_iter 3000 --gpu_id 0"
    )
    parsed = parse_command_line(TestConfig, line.split(), "python test.py")
    assert parsed.trained_model_path == Path("FILE") and parsed.feature_length == 256
    assert parsed.testing_patient_id == ["1"] and parsed.adjacent_range == (1, 50)


@pytest.mark.skipif(REAL_DATA is None, reason="LUMEN_REAL_DATA is not set")
def test_flow_matches_near_frames_of_a_real_clip(tmp_path: Path) -> None:
    config = TestConfig(
        testing_data_root=Path(str(REAL_DATA)) / "sinus",
        log_root=tmp_path / "log",
        cache_root=tmp_path / "cache",
        baselines=("dis",),
        adjacent_range=(1, 5),
        pairs_per_distance=4,
    )
    measure(config)
    assert json.loads((config.log_root / "pck.json").read_text())["dis"]["1-5"]["pck"]["5"] > 0.85
