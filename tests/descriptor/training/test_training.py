"""Training on a textured plane: it learns, is repeatable, resumes after interruptions, and reports errors."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.clips.data_root import find_sequences, load_clips
from descriptor.clips.groups import GroupSampler
from descriptor.fcdensenet.train import _load_frames, train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.training.distributed import Processes
from descriptor.training.paths import RunFolder
from descriptor.training.trainer import Trainer
from pipeline.errors import LumenError
from pipeline.outputs.locks import held
from repository import ROOT
from textured_plane import write_plane


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    write_plane(tmp_path / "data" / "1" / "plane", frames=8)
    return TrainConfig(
        training_data_root=tmp_path / "data",
        log_root=tmp_path / "run",
        cache_root=tmp_path / "cache",
        adjacent_range=(1, 5),
        image_downsampling=4.0,
        network_downsampling=32,
        batch_size=2,
        group_frames=2,
        sampling_size=64,
        num_workers=1,
        num_epoch=2,
        num_iter=3,
        feature_length=32,
        filter_growth_rate=4,
        device="cpu",
    )


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return Checkpoint.load(RunFolder(config.log_root).last).model


def assert_same_weights(first: TrainConfig, second: TrainConfig, tolerance: float = 0.0) -> None:
    theirs = weights(second)
    for name, value in weights(first).items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=tolerance, msg=name)


def test_training_learns_to_match_points(config: TrainConfig) -> None:
    config = replace(config, num_epoch=4, num_iter=15, batch_size=1, lr_range=(1e-3, 1e-2))
    train(config)
    history = json.loads(RunFolder(config.log_root).history.read_text())
    assert [entry["step"] for entry in history] == [15, 30, 45, 60]
    assert history[-1]["loss"] < history[0]["loss"] - 1
    assert history[-1]["pck"][2] > 0.5


def test_files_of_a_run(config: TrainConfig) -> None:
    folder = RunFolder(config.log_root)
    assert train(config) == [folder.best, folder.last]
    for path in (folder.best, folder.last, folder.config, folder.history, folder.plot, folder.report):
        assert path.is_file(), path
    assert list(folder.events.glob("events.*"))
    last = Checkpoint.load(folder.last)
    assert (last.epoch, last.step, last.method) == (2, 6, "fcdensenet")
    assert last.config is not None and last.config["filter_growth_rate"] == 4


def test_runs_repeat_with_the_seed_and_differ_between_seeds(config: TrainConfig, tmp_path: Path) -> None:
    again = replace(config, log_root=tmp_path / "again", num_workers=3)
    other = replace(config, log_root=tmp_path / "other", seed=1)
    for each in (config, again, other):
        train(each)
    assert_same_weights(config, again)
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(config).items())


def test_a_finished_run_is_not_trained_further(config: TrainConfig) -> None:
    train(config)
    before = weights(config)
    train(config)
    for name, value in weights(config).items():
        assert torch.equal(value, before[name]), name


def command(config: TrainConfig, *more: str) -> list[str]:
    flags = {name: getattr(config, name) for name in ("training_data_root", "log_root", "cache_root", "device", "seed")}
    names = ("image_downsampling", "network_downsampling", "batch_size", "group_frames", "sampling_size", "num_workers")
    flags |= {name: getattr(config, name) for name in (*names, "num_epoch", "num_iter")}
    flags |= {name: getattr(config, name) for name in ("feature_length", "filter_growth_rate")}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [*words, "--adjacent_range", *map(str, config.adjacent_range), *more]


def start(config: TrainConfig, launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [*launcher, str(ROOT / "train.py"), *command(config)]
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # Background jobs of a shell script ignore SIGINT; restore its default.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_run_resumes_to_the_same_weights(
    config: TrainConfig, tmp_path: Path, kill: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, num_epoch=4, num_iter=10)
    undisturbed = replace(config, log_root=tmp_path / "undisturbed")
    train(undisturbed)
    process = start(config)
    folder = RunFolder(config.log_root)
    deadline = time.monotonic() + 120
    while not folder.last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(kill)
    output = process.communicate()[0]
    stopped_at = Checkpoint.load(folder.last).step
    assert 0 < stopped_at < 40, output
    if kill != signal.SIGKILL:
        assert process.returncode == 128 + kill
        assert output.splitlines()[-1].startswith(f"stopped by {kill.name}: step {stopped_at} is saved in "), output
    # From another working directory, with relative paths.
    monkeypatch.chdir(config.training_data_root / "1")
    train(replace(config, training_data_root=Path(".."), log_root=Path("../../run")))
    assert Checkpoint.load(folder.last).step == 40
    assert_same_weights(config, undisturbed)
    steps = [entry["step"] for entry in json.loads(folder.history.read_text())]
    assert steps == sorted(set(steps))


def test_two_processes_train_like_one(config: TrainConfig, tmp_path: Path) -> None:
    alone = replace(config, log_root=tmp_path / "alone")
    train(alone)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0")
    process = start(config, (*launcher, "--standalone"))
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert_same_weights(config, alone, tolerance=1e-4)


def test_a_non_finite_loss_stops_the_run_and_saves_the_batch(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = lambda network, *_: network.finalConv.bias.sum() * np.nan  # noqa: E731
    monkeypatch.setattr("descriptor.fcdensenet.learner.group_loss", nan)
    with pytest.raises(LumenError, match="at step 0; the batch is in"):
        train(config)
    folder = RunFolder(config.log_root)
    with np.load(folder.bad_batch(0)) as batch:
        assert batch["images_0"].shape == (2, 64, 64, 3)
        assert batch["points_0_1_0"].shape[0] == 2
    assert all(torch.isfinite(value).all() for value in weights(config).values())


def test_training_starts_from_weights_of_another_run(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    first = RunFolder(config.log_root).best
    second = replace(config, log_root=tmp_path / "second", load_trained_model=True, trained_model_path=first)
    train(second)
    assert Checkpoint.load(RunFolder(second.log_root).last).step == 6
    other = replace(second, log_root=tmp_path / "third", filter_growth_rate=5)
    with pytest.raises(LumenError, match="growth=4.*growth=5"):
        train(other)


def test_network_pixels_fit_each_sequence_and_a_resumed_run(config: TrainConfig) -> None:
    write_plane(config.training_data_root / "2" / "plane", frames=4, scale=3)
    config = replace(config, network_pixels=64 * 64, image_downsampling=None)
    clips = load_clips(find_sequences(config.training_data_root), config.data)
    assert {clip.images.shape[1:3] for clip in clips} == {(64, 64)}
    # Both show the same part of the frame.
    shares = [clip.mask.mean() for clip in clips]
    assert shares[0] == pytest.approx(shares[1], rel=0.15)
    train(config)
    before = weights(config)
    train(config)
    assert all(torch.equal(value, before[name]) for name, value in weights(config).items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_other_optimizers_resume_to_the_same_steps(
    config: TrainConfig, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, optimizer=optimizer)  # type: ignore[arg-type]
    train(config)
    stopped = replace(config, log_root=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        must_stop = Trainer._must_stop
        patch.setattr(Trainer, "_must_stop", lambda self: must_stop(self) or self.state.step == 2)
        train(stopped)
    train(stopped)
    assert_same_weights(config, stopped)


def test_validation_and_test_patients_are_not_trained_on(config: TrainConfig) -> None:
    for patient in ("2", "3"):
        write_plane(config.training_data_root / patient / "plane", frames=4)
    config = replace(config, validation_patient_id=["2"], testing_patient_id=["3"])
    training, validation = _load_frames(config, Processes())
    assert [clip.name for clip in training.clips] == ["1/plane"]
    assert [clip.name for clip in validation.clips] == ["2/plane"]
    everyone = replace(config, validation_patient_id=["1"], testing_patient_id=["2", "3"])
    with pytest.raises(LumenError, match="give --training_patient_id"):
        _load_frames(everyone, Processes())


def test_two_runs_cannot_write_to_one_folder(config: TrainConfig) -> None:
    config.log_root.mkdir()
    with held(config.log_root), pytest.raises(LumenError, match="another process is writing to"):
        train(config)


def test_a_checkpoint_without_optimizer_state_cannot_be_resumed(config: TrainConfig) -> None:
    train(config)
    path = RunFolder(config.log_root).last
    replace(Checkpoint.load(path), optimizer={"state": {}}).save(path)
    with pytest.raises(LumenError, match="choose another --log_root, with --load_trained_model"):
        train(config)


def test_weights_trained_without_contrast_normalisation_keep_it_off(config: TrainConfig, tmp_path: Path) -> None:
    published = replace(config, contrast_radius=0.0)
    train(published)
    start = {"load_trained_model": True, "trained_model_path": RunFolder(published.log_root).last}
    going_on = replace(config, log_root=tmp_path / "more", **start)  # type: ignore[arg-type]
    train(going_on)
    assert (Checkpoint.load(RunFolder(going_on.log_root).last).config or {})["contrast_radius"] == 0.0
    train(going_on)
    with pytest.raises(LumenError, match="was trained with --contrast_radius 0"):
        train(replace(going_on, log_root=tmp_path / "other", contrast_radius=8.0))


def test_bfloat16_computes_the_loss_in_single_precision(config: TrainConfig, tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        changed = replace(config, precision=precision, log_root=tmp_path / precision)  # type: ignore[arg-type]
        train(changed)
        losses.append(json.loads(RunFolder(changed.log_root).history.read_text())[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_run_cannot_be_resumed_with_other_settings(config: TrainConfig) -> None:
    train(config)
    with pytest.raises(LumenError, match="--sampling_size 64, now it is 65"):
        train(replace(config, sampling_size=65))


def test_max_minutes_end_a_run(config: TrainConfig) -> None:
    train(replace(config, max_minutes=0.02, num_iter=1, num_epoch=1000))
    step = Checkpoint.load(RunFolder(config.log_root).last).step
    assert 0 < step < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training_patient_id": ["7"]}, "has no patient 7: choose from 1"),
        ({"validation_patient_id": ["9"]}, "has no patient 9"),
        ({"input_size": (64, 70)}, "multiples of --network_downsampling 32"),
        ({"frame_share": (0.0, 0.1)}, "leaves 1 of 8 frames"),
        ({"adjacent_range": (50, 60)}, "no two frames 50 to 60 apart"),
        ({"training_data_root": Path("nowhere")}, "does not exist"),
    ],
)
def test_unusable_data_are_named(config: TrainConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(LumenError, match=message):
        train(replace(config, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjacent_range": (5, 1)}, "--adjacent_range 5 1"),
        ({"group_frames": 3}, "--group_frames 3: choose a divisor of the 4 frames"),
        ({"network_downsampling": 48}, "a multiple of 32"),
        ({"matching_scale": 1000.0}, "--matching_scale"),
        ({"network_pixels": 9216}, "--image_downsampling and --network_pixels 9216 exclude each other"),
        ({"network_pixels": 1000, "image_downsampling": None}, "--network_pixels 1000: choose 1024 or more"),
        (
            {"network_pixels": 9216, "image_downsampling": None, "input_size": (96, 96)},
            "--input_size and --network_pixels 9216 exclude each other",
        ),
        ({"max_minutes": 0.0}, "--max_minutes 0: choose more than 0"),
        ({"lr_range": (1e-3, 1e-4)}, "--lr_range 0.001 0.0001"),
        ({"seed": -1}, "--seed -1"),
        ({"validation_interval": 0}, "--validation_interval 0"),
        ({"load_trained_model": True}, "needs --trained_model_path"),
        ({"frame_share": (0.8, 0.2)}, "--frame_share 0.8 0.2"),
        ({"sampling_size": 0}, "--sampling_size 0"),
    ],
)
def test_invalid_settings_are_refused(config: TrainConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(LumenError, match=message):
        replace(config, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch_size", "group_frames", "expected"), [(4, None, 4), (1, None, 2), (3, None, 3), (5, None, 2), (4, 8, 8)]
)
def test_group_size_is_the_largest_that_divides_a_step(
    config: TrainConfig, batch_size: int, group_frames: int | None, expected: int
) -> None:
    assert replace(config, batch_size=batch_size, group_frames=group_frames).frames_per_group == expected


def test_a_root_without_sequences_is_an_error_that_states_the_layout(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "empty" / "1").mkdir(parents=True)
    with pytest.raises(LumenError, match="<patient>/<sequence>"):
        train(replace(config, training_data_root=tmp_path / "empty"))


def test_one_registered_frame_is_refused(config: TrainConfig) -> None:
    write_plane(config.training_data_root / "2" / "plane", frames=2)
    folder = config.training_data_root / "2" / "plane" / "colmap" / "0"
    (folder / "visible_view_indexes").write_text("100\n")
    poses = (folder / "motion.yaml").read_text().split("  poses[1]")[0]
    (folder / "motion.yaml").write_text(poses)
    views = (folder / "view_indexes_per_point").read_text().replace("101\n", "")
    (folder / "view_indexes_per_point").write_text(views)
    (folder / "camera_intrinsics_per_view").write_text("200\n200\n128\n96\n")
    with pytest.raises(LumenError, match="1 registered frame"):
        train(config)


def test_requesting_a_missing_gpu_is_an_error(config: TrainConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(LumenError, match="--device cuda: .* use --device cpu"):
        train(replace(config, device="cuda"))


def test_ddls_command_line_is_accepted(config: TrainConfig) -> None:
    line = (
        "--adjacent_range 1 50 --image_downsampling 4.0 --network_downsampling 64 --input_size 256 320 --id_range 1 "
        "--batch_size 4 --num_workers 4 --num_pre_workers 4 --lr_range 1.0e-4 1.0e-3 --validation_interval 1 "
        "--display_interval 20 --rr_weight 1.0 --inlier_percentage 0.99 --training_patient_id 1 "
        "--testing_patient_id 1 --validation_patient_id 1 --num_epoch 100 --num_iter 3000 --display_architecture "
        "--load_intermediate_data --sampling_size 10 --log_root DIR --training_data_root DIR --feature_length 256 "
        "--filter_growth_rate 10 --matching_scale 20.0 --matching_threshold 0.9 --cross_check_distance 5.0 "
        "--heatmap_sigma 5.0 --visibility_overlap 20 --load_trained_model --trained_model_path FILE"
    )
    from pipeline.command.config import parse_command_line

    parsed = parse_command_line(TrainConfig, line.split(), "python train.py")
    assert parsed.adjacent_range == (1, 50) and parsed.input_size == (256, 320) and parsed.sampling_size == 10
    assert parsed.training_patient_id == ["1"] and parsed.lr_range == (1e-4, 1e-3)
    assert parsed.trained_model_path == Path("FILE") and parsed.load_intermediate_data


def test_a_group_depends_only_on_seed_step_and_number(config: TrainConfig) -> None:
    from descriptor.clips.data_root import load_clips

    clips = load_clips([config.training_data_root / "1" / "plane"], config.data)
    rows = [np.arange(8)]
    samplers = [GroupSampler(clips, rows, (1, 5), 4, 30, seed) for seed in (0, 0, 1)]
    first, same, other = (sampler.draw(5, 1) for sampler in samplers)
    assert first is not None and same is not None and other is not None
    np.testing.assert_array_equal(first.images, same.images)
    assert first.pairs.keys() == same.pairs.keys()
    for pair, points in first.pairs.items():
        np.testing.assert_array_equal(points.source, same.pairs[pair].source)
        assert 0 < len(points) <= 30
    assert not np.array_equal(first.images, other.images)


def test_pairs_of_a_group_are_within_the_range(config: TrainConfig) -> None:
    from descriptor.clips.data_root import load_clips

    (clip,) = load_clips([config.training_data_root / "1" / "plane"], config.data)
    sampler = GroupSampler([clip], [np.array([0, 1, 2, 3, 6, 7])], (2, 4), 4, 30, 0)
    for step in range(20):
        group = sampler.draw(step, 0)
        assert group is not None
        rows = [int(np.flatnonzero((clip.images == image).all(axis=(1, 2, 3)))[0]) for image in group.images]
        assert not {4, 5} & set(rows)
        assert all(2 <= rows[target] - rows[source] <= 4 for source, target in group.pairs)
