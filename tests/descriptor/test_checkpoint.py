"""Checkpoints round-trip; published ones are read; invalid files are refused in one line."""

import argparse
import logging
import math
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.checkpoint_file import read_checkpoint_file
from descriptor.fcdensenet.descriptor import FCDenseNetDescriptor
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from descriptor.gift.descriptor import GiftDescriptor, GiftNetwork
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


def test_checkpoint_round_trip(network: FCDenseNet, saved: Path) -> None:
    loaded = Checkpoint.load(saved)
    assert (loaded.epoch, loaded.step, loaded.validation, loaded.method) == (2, 70, 0.25, "fcdensenet")
    assert loaded.config == {"image_downsampling": 8.0, "network_downsampling": 32}
    assert loaded.training == {"state": {"step": 70}}
    assert loaded.model.keys() == network.state_dict().keys()


def test_descriptor_reads_shape_and_geometry_from_the_file(network: FCDenseNet, saved: Path) -> None:
    descriptor = load_descriptor(saved)
    assert isinstance(descriptor, FCDenseNetDescriptor)
    assert descriptor.network.shape == network.shape
    assert (descriptor.image_downsampling, descriptor.network_downsampling) == (8.0, 32)
    assert not descriptor.network.training


def test_network_pixels_determine_the_downsampling_of_each_content_area(network: FCDenseNet, tmp_path: Path) -> None:
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


def test_a_published_file_has_the_published_geometry(network: FCDenseNet, tmp_path: Path) -> None:
    model = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": model, "optimizer": {}, "epoch": 1, "step": 5, "validation": 0.1}, tmp_path / "theirs.pt")
    descriptor = load_descriptor(tmp_path / "theirs.pt")
    assert isinstance(descriptor, FCDenseNetDescriptor)
    assert (descriptor.image_downsampling, descriptor.network_downsampling) == (4.0, 64)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("hostile-code-ran"),))  # type: ignore[return-value]


def test_a_pickle_with_code_is_refused_and_not_run(
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
def test_a_truncated_file_is_reported_as_damaged(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(LumenError, match="damaged"):
        load_descriptor(saved)


def refusal(path: Path) -> str:
    """The one-line error for a file, without its path."""
    with pytest.raises(LumenError) as caught:
        load_descriptor(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300 + len(str(path))
    return message.replace(str(path), "FILE")


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    assert "folder" in refusal(tmp_path)


def replace_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the pickle in a torch file."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)


@pytest.mark.parametrize("is_numpy_1", [False, True])
def test_numpy_values_of_any_type_beside_the_weights_are_read(
    network: FCDenseNet, tmp_path: Path, is_numpy_1: bool
) -> None:
    path = tmp_path / "ddl.pt"
    model = {f"module.{name}": value for name, value in network.state_dict().items()}
    counts = {"epoch": np.int64(3), "step": np.uint16(9000), "validation": np.mean(0.5)}
    torch.save({"model": model, "optimizer": {}, **counts, "losses": np.arange(3.0), "name": np.str_("ddl")}, path)
    if is_numpy_1:
        # Name of NumPy's private package before NumPy 2.
        replace_pickle(path, lambda data: data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
        assert b"cnumpy.core.multiarray\n" in path.read_bytes()
    checkpoint = Checkpoint.load(path)
    assert (checkpoint.epoch, checkpoint.step, checkpoint.validation) == (3, 9000, 0.5)
    assert not any("numpy" in str(each) for each in torch.serialization.get_safe_globals())
    assert_same_network(load_descriptor(path), network)


@pytest.mark.parametrize(
    "number",
    [
        *(kind(3) for kind in sorted(set(np.sctypeDict.values()), key=str) if np.dtype(kind).kind in "biuf"),
        np.array(0.25, ">f4")[()],
        np.array(-7, ">i8")[()],
        np.float32("inf"),
    ],
)
def test_a_numpy_scalar_keeps_its_value(tmp_path: Path, number: Any) -> None:
    torch.save({"validation": number}, tmp_path / "scalar.pt")
    read = read_checkpoint_file(tmp_path / "scalar.pt")["validation"]
    assert type(read) in (bool, int, float) and read == number


def test_a_scalar_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({}, path)
    kind = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    number = b"cnumpy.core.multiarray\nscalar\n" + kind + b"U\x08" + struct.pack("<d", -1e-7) + b"\x86R"
    replace_pickle(path, lambda data: b"\x80\x02}U\x0avalidation" + number + b"s.")
    assert read_checkpoint_file(path) == {"validation": -1e-7}


def test_unrecorded_training_settings_are_assumed_and_logged(
    network: FCDenseNet, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load_descriptor(saved)
    assert not caplog.records
    torch.save(network.state_dict(), tmp_path / "plain.pt")
    load_descriptor(tmp_path / "plain.pt")
    assert "plain.pt does not record its training settings: assuming those of DDL's" in caplog.text
    torch.save(GiftNetwork().state_dict(), tmp_path / "gift.pt")
    caplog.clear()
    load_descriptor(tmp_path / "gift.pt", rotations=5)
    assert not caplog.records
    load_descriptor(tmp_path / "gift.pt")
    assert "gift.pt does not record the rotations of its group: assuming 5" in caplog.text


def assert_same_network(loaded: object, network: FCDenseNet) -> None:
    assert isinstance(loaded, FCDenseNetDescriptor)
    assert loaded.network.shape == network.shape
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[name], value, msg=name)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.descriptor.module."],
)
@pytest.mark.parametrize(
    "keys",
    [(), ("state_dict",), ("model_state_dict",), ("net",), ("weights",), ("mine",), ("model", "state_dict")],
)
def test_weights_are_found_under_any_common_key_and_prefix(
    network: FCDenseNet, tmp_path: Path, prefix: str, keys: tuple[str, ...]
) -> None:
    content: dict[str, Any] = OrderedDict((prefix + name, value) for name, value in network.state_dict().items())
    for key in reversed(keys):
        content = {
            key: content,
            "epoch": torch.tensor(3) if key in ("net", "mine") else 3,
            "optimizer": {"state": {0: {}}},
        }
    torch.save(content, tmp_path / "weights.pt")
    assert_same_network(load_descriptor(tmp_path / "weights.pt"), network)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net."])
def test_gift_weights_are_found_merged_or_separate(tmp_path: Path, prefix: str) -> None:
    network = GiftNetwork()
    whole = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": whole}, tmp_path / "whole.pt")
    parts = {part: getattr(network, part).state_dict() for part in ("extractor", "embedder")}
    apart = {part: {prefix + name: value for name, value in each.items()} for part, each in parts.items()}
    torch.save({"model": apart if prefix != "net." else parts}, tmp_path / "apart.pt")
    safetensors.torch.save_file(whole, tmp_path / "flat.safetensors")
    for name in ("whole.pt", "apart.pt", "flat.safetensors"):
        loaded = load_descriptor(tmp_path / name)
        assert isinstance(loaded, GiftDescriptor) and loaded.length == 128
        for key, value in network.state_dict().items():
            assert torch.equal(loaded.network.state_dict()[key], value), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["weights.safetensors", "renamed.pt", "by_torch.pt"])
def test_weights_of_any_precision_become_float32(
    network: FCDenseNet, tmp_path: Path, dtype: torch.dtype, name: str
) -> None:
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in network.state_dict().items()}
    torch.save(cast, tmp_path / name) if name == "by_torch.pt" else safetensors.torch.save_file(cast, tmp_path / name)
    network.load_state_dict(cast)
    loaded = load_descriptor(str(tmp_path / name))
    assert_same_network(loaded, network)
    assert {value.dtype for value in Checkpoint.load(tmp_path / name).model.values()} == {torch.float32, torch.int64}


def test_a_path_can_be_str_or_path_like(saved: Path) -> None:
    class Place(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(saved)

    for path in (saved, str(saved), Place()):
        assert load_descriptor(path).name == "fcdensenet"
        assert Checkpoint.load(path).step == 70
    Checkpoint.load(saved).save(str(saved.with_name("copy.pt")))
    assert Checkpoint.load(saved.with_name("copy.pt")).step == 70


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_weights_are_refused_naming_the_first(network: FCDenseNet, tmp_path: Path, value: float) -> None:
    weights = network.state_dict()
    weights["finalConv.bias"][3] = value
    torch.save(weights, tmp_path / "bad.pt")
    safetensors.torch.save_file(weights, tmp_path / "bad.safetensors")
    for name in ("bad.pt", "bad.safetensors"):
        assert refusal(tmp_path / name).startswith("FILE: finalConv.bias contains NaN or infinity")
    torch.save({"finalConv.weight": torch.tensor(1e300, dtype=torch.float64)}, tmp_path / "large.pt")
    assert "finalConv.weight contains NaN or infinity" in refusal(tmp_path / "large.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(3).to_sparse(), "torch.sparse_coo"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
        (torch.ones(3).to(torch.float8_e5m2), "float8_e5m2"),
        (torch.ones(3, device="meta"), "on meta"),
    ],
)
def test_tensors_without_plain_numbers_are_refused(tmp_path: Path, value: torch.Tensor, message: str) -> None:
    torch.save({"model": {"finalConv.weight": value}}, tmp_path / "odd.pt")
    assert message in refusal(tmp_path / "odd.pt")


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


def write_pickle(content: object, protocol: int) -> Any:
    return lambda path: path.write_bytes(pickle.dumps(content, protocol))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save({}, path), "contains no network weights; it contains nothing"),
        (lambda path: torch.save([1, 2], path), "not a checkpoint: it holds a list"),
        (lambda path: torch.save(torch.zeros(3), path), "not a checkpoint: it holds a Tensor"),
        (
            lambda path: torch.save({"optimizer": {"state": {0: {"step": torch.zeros(1)}}}, "epoch": 3}, path),
            "no network weights; it contains optimizer, epoch",
        ),
        (lambda path: torch.save({"model": None, "optimizer": {}}, path), "it contains model, optimizer"),
        (
            lambda path: torch.save({"encoder": {}, "decoder": {}, "step": 1}, path),
            "it contains encoder, decoder, step",
        ),
        (lambda path: torch.save({"extractor": {}, "embedder": {}}, path), "it contains extractor, embedder"),
        (
            lambda path: torch.save({f"layers.{number}.weight": torch.zeros(1) for number in range(999)}, path),
            "weights of a network other than fcdensenet or gift: 0.weight, 1.weight",
        ),
        (lambda path: torch.save({f"{n}" * 9999: torch.zeros(1) for n in range(3)}, path), "a network other than"),
        (lambda path: torch.save({"some\nthing": torch.tensor(math.nan)}, path), "FILE: some thing contains NaN"),
        (lambda path: torch.save({"a": torch.zeros(1), "module.a": torch.zeros(1)}, path), "more than one network"),
        (lambda path: torch.save({"lumensfm": [1], "model": {"a": torch.zeros(1)}}, path), "damaged"),
        (
            lambda path: torch.save({"lumensfm": {"format_version": "9" * 999}, "model": {"a": torch.zeros(1)}}, path),
            "update LumenSfM",
        ),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "could run code"),
        (lambda path: torch.save({"args": argparse.Namespace(), "model": {}}, path), "could run code"),
        (write_torchscript, "a TorchScript archive"),
        (lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "a zip archive without a checkpoint"),
        (write_pickle({"model": OrderedDict(a=1)}, 0), "damaged or not a checkpoint"),
        (write_pickle({"model": OrderedDict(a=1)}, 2), "damaged or not a checkpoint"),
        (write_pickle({"model": OrderedDict(a=1)}, 5), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b"(dp0\nS'model'\np1\nI1\ns."), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged or not a checkpoint"),
        (lambda path: path.write_text("<html><body>404: Not Found</body></html>"), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b"\x10" + 7 * b"\0" + b"{"), "damaged or not a checkpoint"),
    ],
)
def test_files_without_weights_are_refused_in_one_line(tmp_path: Path, write: Any, message: str) -> None:
    write(tmp_path / "file")
    assert message in refusal(tmp_path / "file")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_randomly_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, form: str) -> None:
    path, random_ = tmp_path / "file", random.Random(0)
    weights = {"finalConv.weight": torch.ones(4), "other": torch.ones(2)}
    if form == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        content = {"model": weights, "validation": np.float64(1)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole[: random_.choice([len(whole), random_.randrange(len(whole))])])
        for _ in range(random_.randrange(4)):
            if data:
                data[random_.randrange(len(data))] = random_.randrange(256)
        path.write_bytes(data)
        refusal(path)


def test_mismatched_weights_are_named(network: FCDenseNet, tmp_path: Path) -> None:
    weights = network.state_dict()
    del weights["bottleneck.bottleneck.layers.1.conv.bias"]
    Checkpoint(weights).save(tmp_path / "less.pt")
    assert "bottleneck.bottleneck.layers.1.conv.bias: nothing in the file, 3 in" in refusal(tmp_path / "less.pt")
    weights = network.state_dict() | {"firstconv.weight": torch.zeros(16, 1, 3, 3)}
    Checkpoint(weights).save(tmp_path / "grey.pt")
    assert "firstconv.weight: 16x1x3x3 in the file, 16x3x3x3" in refusal(tmp_path / "grey.pt")
    torch.save(network.state_dict() | {"a" * 9999: torch.zeros(1)}, tmp_path / "more.pt")
    assert "1 in the file, nothing in the network" in refusal(tmp_path / "more.pt")


def test_invalid_counts_are_ignored(network: FCDenseNet, tmp_path: Path) -> None:
    odd = {"epoch": "best", "step": [3], "validation": {"pck": 1.0}}
    torch.save({"model": network.state_dict(), **odd, "optimizer": 3}, tmp_path / "odd.pt")
    loaded = Checkpoint.load(tmp_path / "odd.pt")
    assert (loaded.epoch, loaded.step, loaded.optimizer) == (0, 0, None) and math.isnan(loaded.validation)


def test_an_unknown_validation_is_nan(network: FCDenseNet, tmp_path: Path) -> None:
    Checkpoint(network.state_dict()).save(tmp_path / "new.pt")
    assert math.isnan(Checkpoint.load(tmp_path / "new.pt").validation)
