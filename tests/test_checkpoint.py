"""Checkpoints survive a round trip; files that are none, or that hold code, are refused in one line."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.fcdensenet import FCDenseNet, NetworkShape
from descriptor.fcdensenet_descriptor import FCDenseNetDescriptor
from descriptor.registry import load_descriptor
from pipeline.errors import LumenError


@pytest.fixture
def network() -> FCDenseNet:
    return FCDenseNet(NetworkShape(32, 3))


@pytest.fixture
def saved(network: FCDenseNet, tmp_path: Path) -> Path:
    config = {"image_downsampling": 8.0, "network_downsampling": 32}
    path = tmp_path / "last.pt"
    Checkpoint(network.state_dict(), 2, 70, 0.25, "fcdensenet", config, {"state": {}}, {"state": {"step": 70}}).save(
        path
    )
    return path


def test_what_is_saved_is_loaded(network: FCDenseNet, saved: Path) -> None:
    loaded = Checkpoint.load(saved)
    assert (loaded.epoch, loaded.step, loaded.validation, loaded.method) == (2, 70, 0.25, "fcdensenet")
    assert loaded.config == {"image_downsampling": 8.0, "network_downsampling": 32}
    assert loaded.training == {"state": {"step": 70}}
    assert loaded.model.keys() == network.state_dict().keys()


def test_the_descriptor_takes_shape_and_geometry_from_the_file(network: FCDenseNet, saved: Path) -> None:
    descriptor = load_descriptor(saved)
    assert isinstance(descriptor, FCDenseNetDescriptor)
    assert descriptor.network.shape == network.shape
    assert (descriptor.image_downsampling, descriptor.network_downsampling) == (8.0, 32)
    assert not descriptor.network.training


def test_a_number_of_pixels_fits_the_downsampling_to_each_content_area(network: FCDenseNet, tmp_path: Path) -> None:
    config = {"image_downsampling": 8.0, "network_downsampling": 32, "network_pixels": 32 * 64}
    Checkpoint(network.state_dict(), method="fcdensenet", config=config).save(tmp_path / "last.pt")
    descriptor = load_descriptor(tmp_path / "last.pt")
    for size, downsampling in ((64, 1.0), (320, 5.0), (640, 10.0)):
        described = descriptor.describe(
            np.zeros((size // 2, size, 3), np.uint8), np.full((size // 2, size), 255, np.uint8)
        )
        assert described.values.shape[1:] == (32, 64)
        np.testing.assert_allclose(
            described.frame.network_from_image(np.array([float(size), 0])), [size / downsampling, 0]
        )


def test_a_file_without_our_part_has_the_published_geometry(network: FCDenseNet, tmp_path: Path) -> None:
    model = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": model, "optimizer": {}, "epoch": 1, "step": 5, "validation": 0.1}, tmp_path / "theirs.pt")
    descriptor = load_descriptor(tmp_path / "theirs.pt")
    assert isinstance(descriptor, FCDenseNetDescriptor)
    assert (descriptor.image_downsampling, descriptor.network_downsampling) == (4.0, 64)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("hostile-code-ran"),))  # type: ignore[return-value]


def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    network: FCDenseNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": network.state_dict(), "extra": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(LumenError, match="could run code"):
        load_descriptor(tmp_path / "hostile.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": Hostile()}))
    with pytest.raises(LumenError):
        load_descriptor(tmp_path / "plain.pt")
    assert not Path("hostile-code-ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999])
def test_a_cut_off_file_is_said_to_be_damaged(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(LumenError, match="damaged"):
        load_descriptor(saved)


def test_a_missing_file_and_a_folder_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="no such file"):
        load_descriptor(tmp_path / "none.pt")
    with pytest.raises(LumenError, match="folder"):
        load_descriptor(tmp_path)


def test_the_weights_of_another_network_are_told(network: FCDenseNet, tmp_path: Path) -> None:
    torch.save({"encoder": {}, "decoder": {}, "step": 1}, tmp_path / "other.pth")
    with pytest.raises(LumenError, match="encoder, decoder, step: not a checkpoint of fcdensenet or gift"):
        load_descriptor(tmp_path / "other.pth")
    torch.save({"extractor": {}, "embedder": {}, "step": 1}, tmp_path / "gift.pth")
    with pytest.raises(LumenError, match="another network than GIFT"):
        load_descriptor(tmp_path / "gift.pth")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(LumenError, match="list"):
        load_descriptor(tmp_path / "list.pt")
    weights = network.state_dict()
    del weights["bottleneck.bottleneck.layers.1.conv.bias"]
    Checkpoint(weights).save(tmp_path / "less.pt")
    with pytest.raises(LumenError, match=r"bottleneck.bottleneck.layers.1.conv.bias: nothing in the file, 3 in"):
        load_descriptor(tmp_path / "less.pt")
    weights = network.state_dict() | {"firstconv.weight": torch.zeros(16, 1, 3, 3)}
    Checkpoint(weights).save(tmp_path / "grey.pt")
    with pytest.raises(LumenError, match="firstconv.weight: 16x1x3x3 in the file, 16x3x3x3"):
        load_descriptor(tmp_path / "grey.pt")


def test_an_unknown_validation_is_no_number(network: FCDenseNet, tmp_path: Path) -> None:
    Checkpoint(network.state_dict()).save(tmp_path / "new.pt")
    assert math.isnan(Checkpoint.load(tmp_path / "new.pt").validation)
