"""Recorded settings of a training run without private names, and fingerprints of its inputs when resumed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.evaluation.sequences import TestConfig
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.gift.images import ImageSet
from descriptor.gift.train import fingerprint_images
from descriptor.gift.train import train as train_gift
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.training.inputs import fingerprint_sequences, fingerprint_weights
from descriptor.training.paths import RunFolder
from descriptor.training.recorded_settings import private_names, save_recorded
from pipeline.command.config import load_config, parse_command_line, to_mapping
from pipeline.errors import LumenError
from textured_images import textured_image
from textured_plane import write_plane
from traces import MACHINE, PATIENT, files_that_say, name_the_machine


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    write_plane(tmp_path / "data" / PATIENT / "plane", frames=6)
    return TrainConfig(
        training_data_root=tmp_path / "data",
        log_root=tmp_path / "run",
        cache_root=tmp_path / "cache",
        adjacent_range=(1, 5),
        network_downsampling=32,
        training_patient_id=[PATIENT],
        batch_size=1,
        group_frames=2,
        sampling_size=32,
        num_workers=1,
        num_epoch=1,
        num_iter=2,
        display_interval=1,
        feature_length=16,
        filter_growth_rate=2,
        device="cpu",
    )


@pytest.fixture
def gift(tmp_path: Path) -> GiftTrainConfig:
    (tmp_path / "images" / PATIENT).mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / PATIENT / f"{number}.png"), textured_image(140, 160, number))
    return GiftTrainConfig(
        training_data_root=tmp_path / "images",
        log_root=tmp_path / "gift",
        image_size=(64, 80),
        batch_size=1,
        points_per_pair=32,
        num_workers=1,
        num_epoch=1,
        num_iter=1,
        display_interval=1,
        device="cpu",
    )


def started(config: TrainConfig, path: Path) -> TrainConfig:
    """The same settings, starting from the weights in a file."""
    return replace(config, load_trained_model=True, trained_model_path=path)


def test_a_run_records_no_path_patient_or_machine(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_the_machine(monkeypatch)
    train(config)
    start = tmp_path / f"{PATIENT}.pt"
    shutil.copy(RunFolder(config.log_root).best, start)
    more = started(replace(config, log_root=tmp_path / "more"), start)
    train(more)
    for each in (config, more):
        assert len(files_that_say(each.log_root, "")) > 6
        assert not files_that_say(each.log_root, str(tmp_path), PATIENT, MACHINE, "/root", "/home")
        assert not private_names(TrainConfig) & (Checkpoint.load(RunFolder(each.log_root).last).config or {}).keys()
    train(replace(more, log_root=tmp_path / "named", record_path=True))
    recorded = Checkpoint.load(tmp_path / "named" / "last.pt").config or {}
    assert recorded["trained_model_path"] == str(start) and recorded["training_patient_id"] == [PATIENT]
    assert load_config(TrainConfig, tmp_path / "named" / "train.yaml").training_data_root == config.training_data_root


def test_a_gift_run_records_no_path_or_machine(
    gift: GiftTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_the_machine(monkeypatch)
    train_gift(gift)
    second = replace(gift, stage=2, log_root=tmp_path / "second", trained_model_path=RunFolder(gift.log_root).last)
    train_gift(second)
    for each in (gift, second):
        assert not files_that_say(each.log_root, str(tmp_path), PATIENT, MACHINE)
    train_gift(replace(gift, log_root=tmp_path / "named", record_path=True))
    found = files_that_say(tmp_path / "named", str(gift.training_data_root))
    assert {line.rpartition(" of ")[2] for line in found} == {"best.pt", "last.pt", "train.yaml"}


def test_the_recorded_settings_list_omitted_settings(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    config = started(replace(config, contrast_radius=8.0), tmp_path / "start.pt")
    save_recorded(config, file)
    first = file.read_text().splitlines()[0]
    assert first.startswith("# Not recorded: training_data_root, log_root, training_patient_id, cache_root, trained")
    places = ["--training_data_root", str(config.training_data_root), "--log_root", str(config.log_root)]
    places += ["--cache_root", str(config.cache_root), "--training_patient_id", PATIENT]
    line = ["--config", str(file), *places, "--trained_model_path", str(config.trained_model_path)]
    assert parse_command_line(TrainConfig, line, "train.py") == config
    with pytest.raises(LumenError, match="--load_trained_model needs --trained_model_path"):
        parse_command_line(TrainConfig, line[:-2], "train.py")
    with pytest.raises(SystemExit):
        parse_command_line(TrainConfig, ["--config", str(file)], "train.py")


def test_paths_and_patients_are_private() -> None:
    patients = {"id_range", "training_patient_id", "validation_patient_id", "testing_patient_id"}
    places = {"training_data_root", "log_root", "cache_root", "trained_model_path"}
    assert private_names(TrainConfig) == patients | places
    assert private_names(GiftTrainConfig) == places - {"cache_root"}
    assert {"testing_data_root", "compared_model_paths", "testing_patient_id"} < private_names(TestConfig)


def test_a_run_can_be_resumed_from_any_working_directory(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(replace(config, training_data_root=Path("data"), log_root=Path("run")))
    (tmp_path / "else" / "where").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "else" / "where")
    train(replace(config, training_data_root=Path("../../data"), log_root=Path("../../run")))
    shutil.move(tmp_path / "data" / PATIENT, tmp_path / "moved" / "patient")
    renamed = replace(config, training_data_root=tmp_path / "moved", training_patient_id=None)
    train(renamed)
    with pytest.raises(LumenError, match="--sampling_size 32, now it is 33"):
        train(replace(renamed, sampling_size=33))


def test_a_run_cannot_be_resumed_on_other_data(config: TrainConfig) -> None:
    train(config)
    model = config.training_data_root / PATIENT / "plane" / "colmap" / "0"
    cloud = (model / "structure.ply").read_bytes()
    write_plane(model.parent.parent, frames=6, seed=1)
    with pytest.raises(LumenError, match="training data differ from those now in .*: choose another --log_root"):
        train(config)
    assert (model / "structure.ply").read_bytes() != cloud


def test_a_gift_run_cannot_be_resumed_on_other_data(
    gift: GiftTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_gift(gift)
    monkeypatch.chdir(tmp_path)
    train_gift(replace(gift, training_data_root=Path("images"), log_root=Path("gift")))
    cv2.imwrite(str(gift.training_data_root / PATIENT / "3.png"), textured_image(140, 160, 3))
    with pytest.raises(LumenError, match="training data differ from those"):
        train_gift(gift)


def test_a_run_cannot_be_resumed_with_other_starting_weights(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    last = RunFolder(config.log_root).last
    with pytest.raises(LumenError, match="started from other weights than those given now"):
        train(started(config, last))
    more = started(replace(config, log_root=tmp_path / "more"), last)
    train(more)
    # The same weights in another file, or no weights given.
    safetensors.torch.save_file(Checkpoint.load(last).model, tmp_path / "copy.safetensors")
    start = Checkpoint.load(last)
    train(replace(more, load_trained_model=False))
    assert fingerprint_weights(start) == fingerprint_weights(Checkpoint.load(tmp_path / "copy.safetensors"))
    train(more)
    changed = {name: value * 2 for name, value in start.model.items()}
    replace(start, model=changed).save(tmp_path / "changed.pt")
    with pytest.raises(LumenError, match="started from other weights than those given now"):
        train(replace(more, trained_model_path=tmp_path / "changed.pt"))


def test_a_run_without_recorded_data_can_be_resumed(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    last = RunFolder(config.log_root).last
    checkpoint = Checkpoint.load(last)
    settings = {name: value for name, value in to_mapping(config).items() if name != "record_path"}
    old = settings | {"training_data_root": "../other/data", "cache_root": "cache", "contrast_radius": 16.0}
    replace(checkpoint, config=old, training={"state": checkpoint.training["state"]}).save(last)
    with pytest.raises(LumenError, match="--training_patient_id"):
        train(replace(config, training_patient_id=None))
    train(replace(config, num_workers=2))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model / "motion.yaml").write_text(
            (model / "motion.yaml").read_text().replace("x: 0", "x: 1", 1)
        ),
        lambda model: (model / "camera_intrinsics_per_view").write_text("200\n200\n128\n96\n"),
        lambda model: (model / "selected_indexes").unlink(),
        lambda model: (model / "visible_view_indexes").write_text("100\n101\n"),
        lambda model: (model / "view_indexes_per_point").write_text("-1\n100\n"),
        lambda model: (model / "structure.ply").write_bytes((model / "structure.ply").read_bytes()[:-1]),
        lambda model: cv2.imwrite(str(model / "undistorted_mask.bmp"), np.full((192, 256), 255, np.uint8)),
        lambda model: (model / "../../images/00000100.jpg").unlink(),
        lambda model: (model / "../../images/00000100.jpg").write_bytes(b"another"),
        lambda model: (model / "../../images/00000100.jpg").rename(model / "../../images/00000099.jpg"),
        lambda model: (model / "../../depth/scale.yaml").write_text("world_units_per_step: 2\n"),
        lambda model: (model / "../../depth/00000100.png").write_bytes(b"another"),
    ],
)
def test_the_fingerprint_of_a_sequence_covers_each_training_file(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    sequence = tmp_path / "1" / "plane"
    write_plane(sequence, frames=3)
    (sequence / "depth").mkdir()
    (sequence / "depth" / "scale.yaml").write_text("world_units_per_step: 1\n")
    (sequence / "depth" / "00000100.png").write_bytes(b"depth")
    other = tmp_path / "2" / "plane"
    shutil.copytree(sequence, other)
    before = fingerprint_sequences([sequence], [])
    assert fingerprint_sequences([other], []) == before
    assert fingerprint_sequences([], [sequence]) != before != fingerprint_sequences([sequence, other], [])
    change(sequence / "colmap" / "0")
    assert fingerprint_sequences([sequence], []) != before


def test_the_fingerprint_of_images_covers_names_sizes_and_masks(gift: GiftTrainConfig, tmp_path: Path) -> None:
    def fingerprint(root: Path) -> str:
        return fingerprint_images(root, ImageSet.find(root), ImageSet.find(root, (0.0, 0.5)))

    root = gift.training_data_root
    found = [fingerprint(root)]
    shutil.copytree(root, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == found[0]
    mask = np.full((140, 160), 255, np.uint8)
    for row in (0, 1):
        mask[row] = 0
        cv2.imwrite(str(root / PATIENT / "undistorted_mask.bmp"), mask)
        found.append(fingerprint(root))
    (root / PATIENT / "2.png").rename(root / PATIENT / "4.png")
    found.append(fingerprint(root))
    assert len(set(found)) == len(found)
