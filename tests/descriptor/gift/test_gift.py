"""GIFT: its group, its networks against the published ones, its loss, its backend."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from descriptor.checkpoint import Checkpoint
from descriptor.gift import homography as homographies
from descriptor.gift.descriptor import GiftDescriptor, GiftNetwork, load_network
from descriptor.gift.image_pairs import ImagePair, PairSampler
from descriptor.gift.images import ImageSet
from descriptor.gift.loss import lattice_offset, moved_on_lattice, spread_loss, triplet_loss
from descriptor.gift.network import Embedder, as_input, group_features
from descriptor.gift.transformations import TransformationGroup
from descriptor.registry import load_descriptor
from pipeline.errors import LumenError
from textured_images import textured_image

FIXTURES = Path(os.environ.get("LUMEN_REAL_DATA", "none")).parent / "fixtures"
needs_fixtures = pytest.mark.skipif(
    not (FIXTURES / "gift_checkpoint.pth").exists(), reason="LUMEN_REAL_DATA is not set"
)
FIVE, EIGHT = TransformationGroup.of(5), TransformationGroup.of(8)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("group", [FIVE, EIGHT])
def test_a_right_angle_permutes_pixels(group: TransformationGroup) -> None:
    image = torch.rand(1, 3, 96, 64)
    rotated = group.transformation(0, group.rotations_deg.index(90.0), (96, 64)).warp(image)
    torch.testing.assert_close(rotated, torch.rot90(image, -1, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", [(scale, rotation) for scale in range(3) for rotation in range(5)])
def test_warped_values_match_mapped_pixels(place: tuple[int, int]) -> None:
    height, width = 120, 90
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    element = FIVE.transformation(*place, (height, width))
    # An image of pixel coordinates, which a warp interpolates exactly.
    warped = element.warp(torch.stack([columns, rows])[None])[0]
    pixels = torch.tensor([[45.0, 60.0], [30.2, 40.7], [60.5, 80.5]], dtype=torch.float64)
    index = element.apply(pixels)
    near = index.floor().long()
    back = warped[:, near[:, 1], near[:, 0]].double()
    centre = near + 0.5
    expected = (centre - element.offset) @ torch.linalg.inv(element.matrix).T
    torch.testing.assert_close(back.T, expected, atol=2e-3, rtol=0)
    corners = element.apply(torch.tensor([[0.0, 0], [width, 0], [0, height], [width, height]], dtype=torch.float64))
    assert (corners >= -1e-6).all() and (corners <= torch.tensor(element.size[::-1]) + 1e-6).all()


def test_the_published_transformation_groups() -> None:
    assert FIVE.rotations_deg == (-90, -45, 0, 45, 90) and not FIVE.is_closed and FIVE.shape == (5, 5)
    assert EIGHT.rotations_deg == (-180, -135, -90, -45, 0, 45, 90, 135) and EIGHT.is_closed


def test_full_circle_groups_are_rotation_equivariant() -> None:
    embedder = Embedder(closed=True)
    features = functional.normalize(torch.randn(3, 32, 5, 8), dim=1)
    around = embedder(features.roll(3, dims=3))
    # A rotation shifts the features; pooling over the whole group is invariant to it.
    torch.testing.assert_close(embedder(features), around, atol=1e-5, rtol=0)
    assert not torch.allclose(Embedder()(features[..., :5]), Embedder()(features[..., 1:6]), atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_descriptors_differ_before_any_training(seed: int) -> None:
    torch.manual_seed(seed)
    network = GiftNetwork()
    keypoints = np.random.default_rng(seed).uniform(10, 118, (50, 2))
    described = GiftDescriptor(network.eval()).describe_at(textured_image(128, 160), keypoints)
    assert (described @ described.T).mean() < 0.5


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "gift.pt"
    Checkpoint(GiftNetwork(8).state_dict(), step=7, method="gift", config={"rotations": 8}).save(path)
    return path


def test_a_saved_checkpoint_has_the_published_layout_and_loads(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert set(content) >= {"extractor", "embedder", "step"} and content["step"] == 7
    assert "extractor.conv0.0.weight" in content["extractor"]
    assert content["embedder"]["embedder.network2_embed3.2.weight"].shape == (16, 64, 3, 3)
    descriptor = load_descriptor(saved)
    assert isinstance(descriptor, GiftDescriptor) and descriptor.length == 128
    assert descriptor.network.group == EIGHT
    # The recorded value takes precedence.
    assert load_descriptor(saved, rotations=5).network.group == EIGHT  # type: ignore[attr-defined]


def test_a_published_file_has_five_rotations_by_default(saved: Path, tmp_path: Path) -> None:
    content = torch.load(saved, weights_only=True)
    (tmp_path / "gift").mkdir()
    for step in (900, 20000):
        published = {name: content[name] for name in ("extractor", "embedder")} | {"step": step}
        torch.save(published, tmp_path / "gift" / f"{step}.pth")
    assert load_descriptor(tmp_path / "gift").network.group == FIVE  # type: ignore[attr-defined]
    assert load_descriptor(tmp_path / "gift", rotations=8).network.group == EIGHT  # type: ignore[attr-defined]
    assert Checkpoint.load(tmp_path / "gift" / "20000.pth").step == 20000


def test_mismatched_weights_are_named(saved: Path, tmp_path: Path) -> None:
    weights = GiftNetwork().state_dict()
    weights["extractor.extractor.conv0.0.weight"] = torch.zeros(16, 1, 5, 5)
    Checkpoint(weights).save(tmp_path / "grey.pt")
    with pytest.raises(LumenError, match="conv0.0.weight: 16x1x5x5 in the file, 16x3x5x5"):
        load_descriptor(tmp_path / "grey.pt")
    with pytest.raises(LumenError, match="GIFT's group has 5 or 8"):
        load_network(Checkpoint(GiftNetwork().state_dict()), tmp_path / "x", 7)


@pytest.mark.parametrize("embeds", [True, False])
def test_keypoints_and_dense_maps_are_described(embeds: bool) -> None:
    descriptor = GiftDescriptor(GiftNetwork(embeds=embeds).eval())
    image = textured_image(128, 160)
    keypoints = np.array([[20.5, 30.5], [100.0, 64.0], [155.0, 120.0]])
    described = descriptor.describe_at(image, keypoints)
    assert described.shape == (3, 128 if embeds else 32)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(3))
    assert descriptor.describe_at(image, np.zeros((0, 2))).shape == (0, descriptor.length)
    mask = np.zeros((128, 160), np.uint8)
    mask[16:112, 16:144] = 255
    found = descriptor.describe(image, mask)
    assert found.values.shape == (descriptor.length, 24, 32) and found.mask.all()
    torch.testing.assert_close(found.values.norm(dim=0), torch.ones(24, 32))
    # The descriptor of a cell equals that of a keypoint at its centre.
    middle = found.frame.image_from_network(np.array([[20.5, 10.5]]))
    masked = np.where(mask[..., None] > 0, image, np.uint8(127))[16:112, 16:144]
    at_middle = descriptor.describe_at(masked, middle - 16)
    torch.testing.assert_close(found.values[:, 10, 20], at_middle[0], atol=1e-4, rtol=0)


def test_an_image_smaller_than_the_group_needs_is_refused() -> None:
    descriptor = GiftDescriptor(GiftNetwork().eval())
    with pytest.raises(LumenError, match="50x200 pixels is too small for GIFT, .*enlarge it to 64 px"):
        descriptor.describe_at(textured_image(200, 50), np.array([[5.0, 5.0]]))


def test_a_half_size_rotated_view_is_one_lattice_step_away() -> None:
    torch.manual_seed(1)
    network = GiftNetwork().eval()
    image = textured_image(256, 256)
    motion = homographies.about_middle(homographies.similarity(0.5, math.radians(45)), (256, 256))
    views = as_input(np.stack([image, homographies.view_of(image, motion)]), torch.device("cpu"))
    points = np.array([[128.0, 128.0], [140.0, 110.0], [120.0, 150.0]])
    scale, rotation = (torch.from_numpy(each) for each in homographies.local_similarity(motion, points))
    offset = lattice_offset(FIVE, scale, rotation)
    assert offset.tolist() == [[-1, -1]] * 3
    with torch.no_grad():
        first = group_features(network.extractor, FIVE, views[:1], torch.from_numpy(points)[None])[0]
        places = torch.from_numpy(homographies.apply(motion, points))[None]
        second = group_features(network.extractor, FIVE, views[1:], places)[0]
    moved, shared = moved_on_lattice(FIVE, first, offset)
    assert shared.tolist() == [16] * 3
    alike = (moved * second).sum(dim=(1, 2, 3)) / shared
    unmoved = (first * second).sum(dim=(1, 2, 3)) / 25
    assert (alike > unmoved + 0.05).all()


def test_shared_elements_are_shifted_on_the_lattice() -> None:
    features = torch.arange(25.0).reshape(1, 1, 5, 5)
    moved, shared = moved_on_lattice(FIVE, features, torch.tensor([[1, -2]]))
    assert shared.item() == 4 * 3
    assert torch.equal(moved[0, 0, 1:, :3], features[0, 0, :4, 2:])
    assert (moved[0, 0, 0] == 0).all() and (moved[0, 0, :, 3:] == 0).all()
    around, shared = moved_on_lattice(EIGHT, torch.arange(40.0).reshape(1, 1, 5, 8), torch.tensor([[0, 3]]))
    assert shared.item() == 40 and torch.equal(around[0, 0], torch.arange(40.0).reshape(5, 8).roll(3, 1))
    assert moved_on_lattice(FIVE, features, torch.tensor([[5, 0]]))[1].item() == 0


def test_the_triplet_uses_the_nearest_allowed_negative() -> None:
    def at(*degrees: float) -> torch.Tensor:
        angle = torch.deg2rad(torch.tensor(degrees))
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def squared(degrees: float) -> float:
        return 2 - 2 * math.cos(math.radians(degrees))

    grid, none = at(10, 40, 90), torch.zeros(1, 3, dtype=torch.bool)
    one = torch.ones(1)
    loss = triplet_loss(at(0), at(30), grid, none, one, 0.5)
    assert loss.item() == pytest.approx(squared(30) - squared(10) + 0.5, abs=1e-5)
    # The nearest is too close to the true position; the next is used.
    loss = triplet_loss(at(0), at(30), grid, torch.tensor([[True, False, False]]), one, 0.5)
    assert loss.item() == pytest.approx(squared(30) - squared(40) + 0.5, abs=1e-5)
    # Nearer than the counterpart by more than the margin: too hard.
    loss = triplet_loss(at(0), at(85), at(10, 80), none[:, :2], one, 0.5)
    assert loss.item() == pytest.approx(squared(85) - squared(80) + 0.5, abs=1e-5)
    # Without a negative the loss is 0.
    assert triplet_loss(at(0), at(30), grid, ~none, one, 0.5).item() == 0
    assert triplet_loss(at(0), at(30), grid[:0], none[:, :0], one, 0.5).item() == 0


def test_spread_loss_penalises_similar_descriptors_of_different_places() -> None:
    none = torch.zeros(500, 500, dtype=torch.bool)
    first, second = torch.nn.functional.normalize(torch.randn(2, 500, 128, generator=torch.manual_seed(0)), dim=-1)
    # Random vectors: the mean square of their products is 1 / 128.
    assert spread_loss(first, second, none).item() == pytest.approx(0, abs=1e-3)
    assert spread_loss(first, first[:1].expand(500, 128), none).item() < 0.05
    # Identical vectors: 1 from the mean, and 1 - 1 / 128 from the mean square.
    same = first[:1].expand(500, 128)
    assert spread_loss(same, same, none).item() == pytest.approx(2 - 1 / 128, abs=1e-5)
    # Nearby places may be similar.
    near = torch.eye(500, dtype=torch.bool)
    apart = torch.eye(500)[:, :128]
    assert spread_loss(apart[:128], apart[:128], near[:128, :128]).item() == 0
    assert spread_loss(same, same, ~none).item() == 0


@pytest.mark.parametrize("kind", list(homographies.ODDS))
def test_local_similarities_match_finite_differences(kind: homographies.Kind) -> None:
    motion = homographies.random_homography((200, 300), np.random.default_rng(3), kind)
    points = np.array([[150.0, 100.0], [60.0, 40.0]])
    scale, rotation = homographies.local_similarity(motion, points)
    step = 1e-4
    for number, point in enumerate(points):
        moved = homographies.apply(motion, point + step * np.array([[0, 0], [1, 0], [0, 1]]))
        derivative = (moved[1:] - moved[0]).T / step
        assert scale[number] == pytest.approx(math.sqrt(np.linalg.det(derivative)), rel=1e-3)
        turn = math.degrees(math.atan2(derivative[1, 0] - derivative[0, 1], derivative[0, 0] + derivative[1, 1]))
        assert rotation[number] == pytest.approx(turn, abs=1e-2)


@pytest.fixture
def found_images(tmp_path: Path) -> ImageSet:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), textured_image(220, 260, number))
    return ImageSet.find(tmp_path)


def test_both_views_of_a_pair_contain_its_points(found_images: ImageSet) -> None:
    sampler = PairSampler(found_images, (128, 160), 100, 0.0, 0)
    errors = []
    for number in range(10):
        pair = sampler.draw(0, number)
        assert [image.shape for image in pair.images] == [(128, 160, 3)] * 2 and 16 <= len(pair.points[0]) <= 100
        assert len(pair.scale) == len(pair.rotation_deg) == len(pair.points[0]) == len(pair.points[1])
        shades = [
            cv2.remap(
                cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32),
                *((points - 0.5).astype(np.float32)[None, :, axis] for axis in (0, 1)),
                cv2.INTER_LINEAR,
            )[0]
            for image, points in zip(pair.images, pair.points, strict=True)
        ]
        errors.append(np.median(np.abs(shades[0] - shades[1])))
    assert np.median(errors) < 6
    again = PairSampler(found_images, (128, 160), 100, 0.0, 0).draw(0, 3)
    assert np.array_equal(again.images, sampler.draw(0, 3).images)
    assert not np.array_equal(again.points[0][:5], sampler.draw(1, 3).points[0][:5])


def test_a_view_of_a_small_part_has_all_points(found_images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homographies, "ODDS", {"scale": 1.0})
    sampler = PairSampler(found_images, (128, 160), 100, 0.0, 0)
    pairs = [sampler.draw(0, number) for number in range(20)]
    enlarged = [pair for pair in pairs if np.median(pair.scale) > 2]
    assert len(enlarged) >= 3 and min(len(pair.points[0]) for pair in enlarged) > 60


def test_pairs_of_two_sizes_contain_all_or_a_part_of_the_image(found_images: ImageSet) -> None:
    size = (160, 200)
    sampler = PairSampler(found_images, size, 100, 0.0, 0, 1.0)
    pairs = [sampler.draw(0, number) for number in range(24)]
    for pair in pairs:
        sizes = [image.shape[:2] for image in pair.images]
        assert [mask.shape for mask in pair.shown] == sizes
        assert size in sizes and min(min(sizes)) >= 64 and max(sizes) == size
        ratio = float(np.median(pair.scale))
        assert 1.5 < max(ratio, 1 / ratio) < 2.8 and np.allclose(pair.scale, ratio, rtol=0.2)
        assert np.abs(pair.rotation_deg).max() < 30 and len(pair.points[0]) >= 16
        if ratio > 1 and sizes[0] != size:
            # An enlarged part of the first view, which may extend beyond it.
            assert sizes[1] == size and sizes[0][0] > 0.9 * size[0] / ratio
        greys = []
        for image, points, larger in zip(pair.images, pair.points, (1 / ratio, ratio), strict=True):
            assert (points > 0).all() and (points < image.shape[1::-1]).all()
            # Compared at equal sharpness; the grey value of a pixel is that of its centre.
            alike = cv2.GaussianBlur(image[..., 0].astype(np.float32), (0, 0), max(1.0, larger))
            at = (points - 0.5).astype(np.float32)
            greys.append(cv2.remap(alike, at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR)[0])
        assert np.corrcoef(*greys)[0, 1] > 0.9
    enlarged = [pair for pair in pairs if np.median(pair.scale) > 1]
    heights = [pair.images[0].shape[0] for pair in enlarged]
    assert len(heights) > 6 and min(heights) < 80 < 120 < max(heights)
    assert sum(pair.images[0].shape[:2] == size and np.median(pair.scale) < 1 for pair in pairs) > 1


def test_corners_of_downsampled_images_are_points(found_images: ImageSet) -> None:
    size, points = (160, 200), 120

    def drawn(corner_sizes: int) -> list[ImagePair]:
        """Pairs of an image and a smaller copy: all usable corners of the first are points."""
        sampler = PairSampler(found_images, size, points, 0.0, 0, 1.0, corner_sizes)
        pairs = [sampler.draw(0, number) for number in range(24)]
        return [pair for pair in pairs if pair.images[0].shape[:2] == size and np.median(pair.scale) < 1]

    of_one, of_four = drawn(1), drawn(4)
    assert min(len(of_one), len(of_four)) > 1
    # Pixel centres are at 0.5; centres of pixels made of 2, 4 or 8 are at multiples of these plus 1, 2 or 4.
    assert all((pair.points[0] % 1 == 0.5).all() for pair in of_one)
    for pair in of_four:
        assert points / 2 < len(pair.points[0]) <= points
        assert len(np.unique(pair.points[0], axis=0)) == len(pair.points[0])
        for middle in (0.5, 1.0, 2.0, 4.0):
            own = np.all(pair.points[0] % (2 * middle) == middle, axis=1)
            assert points / 8 < own.sum() <= points / 4, middle


def test_a_sequence_mask_excludes_pixels_without_tissue(tmp_path: Path) -> None:
    (tmp_path / "seq" / "images").mkdir(parents=True)
    mask = np.zeros((240, 320), np.uint8)
    cv2.circle(mask, (160, 120), 100, 255, -1)
    cv2.imwrite(str(tmp_path / "seq" / "undistorted_mask.bmp"), mask)
    for number in range(4):
        cv2.imwrite(str(tmp_path / "seq" / "images" / f"{number:08d}.jpg"), textured_image(240, 320, number))
    # Images beside the frames are not frames.
    for beside in ("colmap", "recorded/images"):
        (tmp_path / "seq" / beside).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "seq" / beside / "overview.png"), textured_image(240, 320))
    cv2.imwrite(str(tmp_path / "seq" / "recorded" / "undistorted_mask.bmp"), mask)
    found = ImageSet.find(tmp_path, (0.0, 0.5))
    assert len(found) == 2 and found.masks[0] is not None
    assert all(len(ImageSet.find(root, (0.0, 0.5))) == 2 for root in (tmp_path / "seq", tmp_path / "seq" / "images"))
    pair = PairSampler(found, (96, 96), 50, 0.5, 0).draw(0, 0)
    assert (pair.images[1][~pair.shown[1]] == 127).all()
    with pytest.raises(LumenError, match="no images"):
        ImageSet.find(tmp_path, (0.0, 0.1))


def test_unusable_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="does not exist"):
        ImageSet.find(tmp_path / "none")
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8 not a image")
    with pytest.raises(LumenError, match="torn.jpg is damaged"):
        PairSampler(ImageSet.find(tmp_path), (96, 96), 50, 0.0, 0).draw(0, 0)
    (tmp_path / "torn.jpg").unlink()
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((120, 120), 90, np.uint8))
    # Without corners, all pixels are equivalent.
    assert len(PairSampler(ImageSet.find(tmp_path), (96, 96), 50, 0.0, 0).draw(0, 0).points[0]) >= 16


@needs_fixtures
def test_both_networks_equal_the_published_ones(tmp_path: Path) -> None:
    descriptor = load_descriptor(FIXTURES / "gift_checkpoint.pth")
    assert isinstance(descriptor, GiftDescriptor)
    network = descriptor.network
    with np.load(FIXTURES / "gift_checkpoint_io.npz") as published:
        given = {name: torch.from_numpy(published[name]) for name in published}
    assert network.embedder is not None
    with torch.no_grad():
        torch.testing.assert_close(network.embedder(given["group_features"]), given["descriptors"], atol=1e-4, rtol=0)
        features = network.extractor(given["image"][None])[0]
        torch.testing.assert_close(features, given["feature_map"], atol=1e-4, rtol=0)
    theirs = torch.load(FIXTURES / "gift_checkpoint.pth", weights_only=True)
    Checkpoint(network.state_dict(), step=20000, method="gift").save(tmp_path / "ours.pth")
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)
    for part in ("extractor", "embedder"):
        assert ours[part].keys() == theirs[part].keys()
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())
    with pytest.raises(LumenError, match="--rotations applies to GIFT only; .* is a fcdensenet network"):
        load_descriptor(FIXTURES / "ddl_checkpoint.pt", rotations=8)
