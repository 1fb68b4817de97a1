"""The loss of a group against the loss of its pairs, computed over whole frames."""

import numpy as np
import torch

from descriptor.clips.clip import PointPairs
from descriptor.clips.groups import Group
from descriptor.fcdensenet.group_loss import group_loss
from descriptor.fcdensenet.network import FCDenseNet, NetworkShape
from descriptor.fcdensenet.response_loss import blend, corners, interpolate, response_loss


def test_the_group_loss_equals_the_mean_of_pair_losses() -> None:
    torch.manual_seed(0)
    network = FCDenseNet(NetworkShape(16, 2), contrast_radius=4.0).eval()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 32, 64, 3), np.uint8)
    masks = random.random((3, 32, 64)) > 0.2
    # The middle frame shares no points.
    points = PointPairs(*random.uniform((0, 0), (64, 32), (2, 20, 2)))
    loss = group_loss(network, Group(images, masks, {(0, 2): points}), 20.0, 1, 0)
    described = network.describe(images, masks)
    expected = torch.zeros(())
    for source, target, pair in ((0, 2, points), (2, 0, points.swapped())):
        at = interpolate(described[source], torch.from_numpy(pair.source).float())
        index, share = corners(torch.from_numpy(pair.target), 32, 64)
        there = blend(described[target].flatten(0, 1)[index], share)
        pixels = described[target][torch.from_numpy(masks[target])]
        expected = expected + response_loss(at, there, pixels, 20.0) / 2
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
