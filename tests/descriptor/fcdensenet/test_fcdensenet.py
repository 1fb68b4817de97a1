"""The network against the published output, and compact descriptors against full ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from descriptor.checkpoint import Checkpoint
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape, network_input, shape_of
from descriptor.registry import load_descriptor

FIXTURES = Path(os.environ.get("LUMEN_REAL_DATA", "none")).parent / "fixtures"
needs_fixtures = pytest.mark.skipif(not (FIXTURES / "ddl_checkpoint.pt").exists(), reason="LUMEN_REAL_DATA is not set")


@pytest.fixture
def network() -> FCDenseNet:
    torch.manual_seed(0)
    return FCDenseNet(NetworkShape(128, 4)).eval()


@needs_fixtures
def test_the_published_checkpoint_produces_the_published_output() -> None:
    descriptor = load_descriptor(FIXTURES / "ddl_checkpoint.pt")
    arrays = np.load(FIXTURES / "ddl_checkpoint_io.npz")
    with torch.no_grad():
        output = descriptor.network(torch.from_numpy(arrays["input"]))  # type: ignore[attr-defined]
    np.testing.assert_allclose(output, arrays["output"], atol=1e-4)


@needs_fixtures
def test_our_checkpoints_have_the_published_layout(tmp_path: Path) -> None:
    published = torch.load(FIXTURES / "ddl_checkpoint.pt", weights_only=True)
    checkpoint = Checkpoint.load(FIXTURES / "ddl_checkpoint.pt")
    assert (checkpoint.epoch, checkpoint.step, checkpoint.validation) == (3, 9000, 0.5)
    network = FCDenseNet(NetworkShape())
    network.load_state_dict(checkpoint.model)
    Checkpoint(network.state_dict(), epoch=3, step=9000, validation=0.5, method="fcdensenet").save(tmp_path / "ours.pt")
    saved = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert published.keys() <= saved.keys()
    assert saved["model"].keys() == published["model"].keys()
    for name, value in published["model"].items():
        assert torch.equal(saved["model"][name], value), name
    assert (saved["epoch"], saved["step"], saved["validation"]) == (3, 9000, 0.5)


def test_the_default_network_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in FCDenseNet(NetworkShape()).parameters()) == 531_438


def test_descriptors_have_the_image_size_and_unit_length(network: FCDenseNet) -> None:
    with torch.no_grad():
        described = network(torch.rand(2, 3, 64, 96))
    assert described.shape == (2, 128, 64, 96)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(2, 64, 96))


def test_a_side_that_pooling_truncates_is_refused(network: FCDenseNet) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.rand(1, 3, 64, 45))


def test_compact_descriptors_have_the_same_products(network: FCDenseNet) -> None:
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        full, compact = network(images)[0].flatten(1).T, network.compact(images)[0].flatten(0, 1)
    assert compact.shape[1] == network.compact_length == 16 + 9 * 4 + 1
    torch.testing.assert_close(compact @ compact.T, full @ full.T, atol=1e-5, rtol=0)


def test_short_descriptors_are_not_extended() -> None:
    network = FCDenseNet(NetworkShape(8, 4)).eval()
    with torch.no_grad():
        images = torch.rand(1, 3, 32, 32)
        torch.testing.assert_close(network.compact(images).permute(0, 3, 1, 2), network(images))


def test_compact_descriptors_have_the_same_gradients() -> None:
    torch.manual_seed(1)
    network = FCDenseNet(NetworkShape(64, 2)).double().eval()
    images = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    gradients = []
    for described in (network(images).permute(0, 2, 3, 1), network.compact(images)):
        network.zero_grad()
        flat = described.flatten(0, 2)
        (flat @ flat[7]).exp().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    for full, compact in zip(*gradients, strict=True):
        torch.testing.assert_close(full, compact, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("shape", [NetworkShape(16, 3), NetworkShape(256, 10)])
def test_the_shape_is_read_from_the_weights(shape: NetworkShape) -> None:
    assert shape_of(FCDenseNet(shape).state_dict()) == shape


def test_the_shape_of_another_network_is_none() -> None:
    assert shape_of({"conv.weight": torch.zeros(1)}) is None


def test_levels_become_minus_one_to_one() -> None:
    images = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    torch.testing.assert_close(network_input(images)[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
