"""Training of GIFT: both stages, resuming, settings."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.fcdensenet.descriptor import load_network as load_ddl
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from descriptor.gift.descriptor import GiftNetwork
from descriptor.gift.images import ImageSet
from descriptor.gift.learner import GiftTraining
from descriptor.gift.train import train
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.registry import load_descriptor
from descriptor.training.paths import RunFolder
from pipeline.command.config import load_config, named_variant, parse_command_line, save_config
from pipeline.errors import LumenError
from repository import ROOT
from textured_images import textured_image


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path) -> GiftTrainConfig:
    (tmp_path / "images").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), textured_image(140, 160, number))
    return GiftTrainConfig(
        training_data_root=tmp_path / "images",
        log_root=tmp_path / "stage1",
        image_size=(64, 80),
        batch_size=2,
        points_per_pair=48,
        num_workers=1,
        num_epoch=2,
        num_iter=3,
        validation_interval=1,
        display_interval=1,
        device="cpu",
    )


def weights(config: GiftTrainConfig) -> dict[str, torch.Tensor]:
    return Checkpoint.load(RunFolder(config.log_root).last).model


def second_stage(config: GiftTrainConfig) -> GiftTrainConfig:
    trained = RunFolder(config.log_root).last
    return replace(config, stage=2, log_root=config.log_root.with_name("stage2"), trained_model_path=trained)


def test_the_first_stage_trains_the_extractor_and_the_second_the_embedder(config: GiftTrainConfig) -> None:
    train(config)
    folder = RunFolder(config.log_root)
    for path in (folder.best, folder.last, folder.config, folder.plot, folder.history, folder.report):
        assert path.exists(), path
    assert load_descriptor(folder.last).length == 32
    second = second_stage(config)
    train(second)
    first, after = weights(config), weights(second)
    assert all(torch.equal(after[name], value) for name, value in first.items())
    assert any(name.startswith("embedder.") for name in after)
    assert load_descriptor(RunFolder(second.log_root).last).length == 128


@pytest.mark.parametrize(("stage", "optimizer"), [(1, "adam"), (2, "muon")])
def test_gradient_steps_separate_points_from_their_neighbours(
    config: GiftTrainConfig, stage: int, optimizer: str
) -> None:
    torch.manual_seed(0)
    config = replace(
        config, stage=stage, optimizer=optimizer, hem_interval=2, hem_threshold_px=(2.0, 2.0), augmentation=1.0
    )
    images = ImageSet.find(config.training_data_root)
    method = GiftTraining(config, GiftNetwork(embeds=stage == 2), images, images)
    pair = method.draw(0, 0)
    optimizers = method.optimizers().values()
    losses = []
    for _ in range(30):
        method.network.zero_grad()
        loss = method.loss(pair, 0, 1.0)
        loss.backward()
        for each in optimizers:
            each.param_groups[0]["lr"] = 2e-3
            each.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert 0 <= method.validate().pck[0] <= method.validate().pck[-1] <= 1


@pytest.mark.parametrize("stage", [1, 2])
def test_pairs_of_two_sizes_are_trained_and_plotted(config: GiftTrainConfig, stage: int) -> None:
    config = replace(config, stage=stage, two_sizes=1.0, image_size=(128, 136), hem_interval=8)
    images = ImageSet.find(config.training_data_root)
    method = GiftTraining(config, GiftNetwork(8, embeds=stage == 2), images, images)
    pairs = [method.draw(0, number) for number in range(4)]
    losses = [method.loss(pair, 0, 1.0).item() for pair in pairs]
    assert all(0 <= loss < 3 for loss in losses) and max(losses) > 0
    assert set(method.arrays(pairs[0])) == {"first", "second", "points"}
    assert method.validate().points > 100
    assert method.plots()["matches"].shape == (128, 272, 3)


@pytest.mark.parametrize(("stage", "optimizer"), [(1, "muon"), (2, "adam")])
def test_a_stopped_run_resumes_to_the_same_weights(
    config: GiftTrainConfig, stage: int, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, optimizer=optimizer)
    if stage == 2:
        train(replace(config, num_epoch=1, num_iter=1))
        config = second_stage(config)
    whole = replace(config, log_root=config.log_root.with_name("whole"))
    train(whole)
    loss = GiftTraining.loss

    def fails(self: GiftTraining, part: object, step: int, share: float) -> torch.Tensor:
        if step == 4:
            raise MemoryError
        return loss(self, part, step, share)  # type: ignore[arg-type]

    monkeypatch.setattr(GiftTraining, "loss", fails)
    with pytest.raises(MemoryError):
        train(config)
    monkeypatch.undo()
    train(config)
    expected = weights(whole)
    for name, value in weights(config).items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0, msg=name)


def test_two_processes_train_like_one(config: GiftTrainConfig) -> None:
    train(config)
    alone = weights(config)
    together = replace(config, log_root=config.log_root.with_name("together"))
    save_config(together, config.log_root / "together.yaml")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")
    command = [*launcher, str(ROOT / "train.py"), "--config", str(config.log_root / "together.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    for name, value in weights(together).items():
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=1e-4, msg=name)


def test_weights_of_the_other_method_are_refused(config: GiftTrainConfig, tmp_path: Path) -> None:
    network = FCDenseNet(NetworkShape(feature_length=16, growth=4))
    Checkpoint(network.state_dict(), method="fcdensenet").save(tmp_path / "ddl.pt")
    with pytest.raises(LumenError, match="ddl.pt contains weights of a network other than GIFT"):
        train(replace(config, trained_model_path=tmp_path / "ddl.pt"))
    Checkpoint(GiftNetwork().state_dict(), method="gift").save(tmp_path / "gift.pt")
    with pytest.raises(LumenError, match="gift.pt contains weights of a network other than the dense descriptor"):
        load_ddl(Checkpoint.load(tmp_path / "gift.pt"), tmp_path / "gift.pt")


def test_stage_2_without_stage_1_is_an_error(config: GiftTrainConfig) -> None:
    with pytest.raises(LumenError, match="stage 2 needs the extractor of stage 1"):
        train(replace(config, stage=2))


def test_a_run_cannot_be_resumed_with_other_settings(config: GiftTrainConfig) -> None:
    train(config)
    with pytest.raises(LumenError, match="contains a run with --margin 0.5"):
        train(replace(config, margin=0.4))
    # A run of a version without this setting counts as the default.
    last = RunFolder(config.log_root).last
    checkpoint = Checkpoint.load(last)
    settings = {name: value for name, value in (checkpoint.config or {}).items() if name != "corner_sizes"}
    replace(checkpoint, config=settings).save(last)
    with pytest.raises(LumenError, match="contains a run with --corner_sizes 1, now it is 4"):
        train(replace(config, corner_sizes=4))
    train(config)


@pytest.mark.parametrize("name", ["stage1", "stage2", "cpu_quick1", "cpu_quick2"])
def test_the_presets_are_valid_and_complete(name: str, tmp_path: Path) -> None:
    path = ROOT / "configs" / "gift" / f"{name}.yaml"
    arguments = ["--config", str(path), "--training_data_root", str(tmp_path), "--log_root", str(tmp_path)]
    assert named_variant("method", ["fcdensenet", "gift"], arguments) == "gift"
    config = parse_command_line(GiftTrainConfig, arguments, "train.py")
    assert config.stage == int(name[-1])
    assert load_config(GiftTrainConfig, path, allow_missing=True).method == "gift"


def test_the_method_is_chosen_by_flag_or_file_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    choices = ["fcdensenet", "gift"]
    assert named_variant("method", choices, []) == "fcdensenet"
    assert named_variant("method", choices, ["--method=gift"]) == "gift"
    with pytest.raises(LumenError, match="--method gitf: .*did you mean 'gift'"):
        named_variant("method", choices, ["--method", "gitf"])
    (tmp_path / "own.yaml").write_text("method: sift\n")
    with pytest.raises(LumenError, match="own.yaml: method sift"):
        named_variant("method", choices, ["--config", str(tmp_path / "own.yaml")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (32, 80)}, "64 or more"),
        ({"frame_share": (0.5, 0.5)}, "two shares"),
        ({"hem_threshold_px": (8.0, 16.0)}, "larger distance first"),
        ({"lr_range": (1e-3, 1e-4)}, "lowest"),
        ({"batch_size": 0}, "1 or more"),
        ({"points_per_pair": 8}, "16 or more"),
        ({"corner_sizes": 0}, "from 1 to 5"),
        ({"corner_sizes": 6}, "from 1 to 5"),
        ({"hem_interval": 40}, "half of --image_size"),
        ({"spread_weight": -1.0}, "0 or more"),
        ({"spread_weight": 1.0, "stage": 1}, "stage 2"),
        ({"two_sizes": 1.5}, "from 0 to 1"),
        ({"two_sizes": 0.5}, "128 or more"),
    ],
)
def test_invalid_settings_are_refused(config: GiftTrainConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(LumenError, match=message):
        replace(config, **change)  # type: ignore[arg-type]


def test_collapsed_descriptors_cause_a_warning(config: GiftTrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    images = ImageSet.find(config.training_data_root)
    network = GiftNetwork()
    assert network.embedder is not None
    method = GiftTraining(replace(config, stage=2), network, images, images)
    method.validate()
    assert not caplog.records
    with torch.no_grad():
        for name, bias in network.embedder.named_parameters():
            if name.endswith("embed3.2.bias"):
                bias.fill_(1e3)
    method.validate()
    assert "descriptors have collapsed" in caplog.text and "--seed" in caplog.text
