"""The phantom: reproducible images, consistent ground truth, and a folder that is complete or absent."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from data_prep.phantom import Phantom, PhantomConfig, build_phantom, run
from data_prep.simulation.endoscope import ContentArea, pixel_centres
from data_prep.simulation.truth import OCCLUSION_TOLERANCE_MM, PhantomTruth
from pipeline.command.run_command import run_command
from pipeline.conventions import colmap_from_opencv
from pipeline.data.phantom_files import DEPTH_UNIT_MM, PhantomPaths
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml

SMALL = PhantomConfig(Path("unused"), frames=12, size=(128, 96))
# So few frames cover a whole motion cycle only at a low frame rate.
VIEWS: dict[str, PhantomConfig] = {
    "colon": replace(SMALL, anatomy="colon", fps=3),
    "sinus": replace(SMALL, anatomy="sinus", fps=3),
    "colon_fisheye": replace(SMALL, anatomy="colon", fps=3, fisheye=True, seed=3),
    "sinus_fisheye": replace(SMALL, anatomy="sinus", fps=3, fisheye=True, seed=3),
}


@pytest.fixture(scope="module")
def phantoms() -> dict[str, Phantom]:
    return {name: build_phantom(config) for name, config in VIEWS.items()}


@pytest.fixture(params=VIEWS)
def phantom(request: pytest.FixtureRequest, phantoms: dict[str, Phantom]) -> Phantom:
    return phantoms[request.param]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    """A phantom on disk with all options enabled."""
    root = tmp_path_factory.mktemp("phantom") / "Übung 1"
    config = PhantomConfig(
        root, frames=40, size=(160, 128), fisheye=True, fps=29.97, black_s=0.2, cuts=2, duplicates=3, overlay_text=True
    )
    assert run(config) == [root / "video.mp4", root / "truth.yaml"]
    return PhantomPaths(root)


def inside_pixels(truth: PhantomTruth, count: int = 400) -> np.ndarray:
    """Random positions, not pixel centres, in the content area: (count, 2), px."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, (truth.camera.width, truth.camera.height), size=(20 * count, 2))
    return points[truth.content.contains(points)][:count]


class TestImages:
    def test_same_config_same_frames_in_any_order(self, phantoms: dict[str, Phantom]) -> None:
        again = build_phantom(VIEWS["sinus"])
        for index in (7, 0):
            image, depth_mm = phantoms["sinus"].frame(index)
            image_again, depth_again_mm = again.frame(index)
            np.testing.assert_array_equal(image, image_again)
            np.testing.assert_array_equal(depth_mm, depth_again_mm)

    def test_another_seed_gives_another_image(self, phantoms: dict[str, Phantom]) -> None:
        other = build_phantom(replace(VIEWS["sinus"], seed=1))
        assert not np.array_equal(phantoms["sinus"].frame(0)[0], other.frame(0)[0])
        assert not np.array_equal(phantoms["sinus"].truth.cam_from_world, other.truth.cam_from_world)

    def test_content_area_is_lit_and_its_border_is_black(self, phantom: Phantom) -> None:
        mask = phantom.truth.content.mask() > 0
        for index in (0, 6, 11):
            image, depth_mm = phantom.frame(index)
            assert image.shape == (96, 128, 3) and image.dtype == np.uint8
            assert 40 < image[mask].mean() < 180
            far_outside = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) == 0
            assert image[far_outside].max() <= 4
            np.testing.assert_array_equal(depth_mm > 0, mask)

    def test_exposure_follows_the_scene_smoothly_and_changes_once(self) -> None:
        frames = build_phantom(replace(SMALL, frames=90)).truth.frames
        ratio = np.diff(np.log([frame.exposure_gain for frame in frames]))
        assert np.abs(ratio).max() < 0.12
        assert np.sum(np.abs(ratio) > 0.05) in range(3, 10)

    def test_overlay_text_stays_outside_the_content_area(self) -> None:
        plain = build_phantom(replace(SMALL, size=(320, 256), frames=1))
        with_text = build_phantom(replace(SMALL, size=(320, 256), frames=1, overlay_text=True))
        differs = (plain.frame(0)[0] != with_text.frame(0)[0]).any(axis=-1)
        assert differs.sum() > 100
        assert not differs[cv2.dilate(plain.truth.content.mask(), np.ones((3, 3))) > 0].any()

    @pytest.mark.parametrize(
        "shape, share", [("round", 0.58), ("octagonal", 0.65), ("rounded_rectangle", 0.76), ("full", 1)]
    )
    def test_content_area_shapes(self, shape: Any, share: float) -> None:
        content = ContentArea(shape, 640, 512)
        mask = content.mask()
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).mean() == pytest.approx(share, abs=0.03)
        corner_most = np.linalg.norm(pixel_centres(640, 512)[mask.ravel() > 0] - content.centre_px, axis=1).max()
        assert corner_most <= content.radius_px


class TestMotion:
    @pytest.mark.parametrize("anatomy", ["colon", "sinus"])
    @pytest.mark.parametrize("seed", range(3))
    def test_camera_keeps_clear_of_all_surfaces(self, anatomy: Any, seed: int) -> None:
        truth = build_phantom(
            replace(SMALL, anatomy=anatomy, seed=seed, frames=200, fps=5, size=(64, 64), cuts=2)
        ).truth
        assert truth.distance_to_surface(centres_mm(truth)).min() >= 2.0

    @pytest.mark.parametrize("anatomy", ["colon", "sinus"])
    def test_path_is_smooth_with_forward_pause_and_backward_phases(self, anatomy: Any) -> None:
        truth = build_phantom(replace(SMALL, anatomy=anatomy, frames=120, size=(64, 64))).truth
        steps_mm = np.diff(centres_mm(truth), axis=0)
        ahead_mm = np.einsum("ij,ij->i", steps_mm, truth.cam_from_world[:-1, 2, :3])
        assert np.linalg.norm(steps_mm, axis=1).sum() == pytest.approx(45, abs=20)
        assert np.linalg.norm(steps_mm, axis=1).max() < 1.2
        assert np.linalg.norm(np.diff(steps_mm, axis=0), axis=1).max() < 0.15
        assert ahead_mm.max() > 0.2 and ahead_mm.min() < -0.1
        assert np.sum(np.abs(ahead_mm) < 0.08) >= 5
        turns = np.einsum("nij,nkj->nik", truth.cam_from_world[1:, :, :3], truth.cam_from_world[:-1, :, :3])
        turns_deg = np.rad2deg(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))
        assert turns_deg.sum() > 5 and turns_deg.max() < 4

    def test_poses_are_rigid(self, phantom: Phantom) -> None:
        rotations = phantom.truth.cam_from_world[:, :, :3]
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3)[None].repeat(12, 0), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(rotations), 1)

    def test_cut_jumps_to_another_place(self) -> None:
        truth = build_phantom(replace(SMALL, frames=60, cuts=2)).truth
        segment = np.array([frame.segment for frame in truth.frames])
        jumps_mm = np.linalg.norm(np.diff(centres_mm(truth), axis=0), axis=1)
        assert segment[0] == 0 and segment[-1] == 2
        assert jumps_mm[np.diff(segment) == 1].min() > 15
        assert jumps_mm[np.diff(segment) == 0].max() < 2


class TestCorrespondence:
    def test_correspondence_is_invertible(self, phantom: Phantom) -> None:
        truth = phantom.truth
        pixels = inside_pixels(truth)
        checked = 0
        for frame_a, frame_b in ((0, 1), (0, 4), (9, 5)):
            there, visible = truth.correspondence(frame_a, frame_b, pixels)
            back, visible_back = truth.correspondence(frame_b, frame_a, there[visible])
            assert visible_back.mean() > 0.99
            np.testing.assert_allclose(back[visible_back], pixels[visible][visible_back], atol=0.01)
            checked += int(visible.sum())
        assert checked > 300

    def test_a_frame_corresponds_to_itself(self, phantom: Phantom) -> None:
        pixels = inside_pixels(phantom.truth)
        same, visible = phantom.truth.correspondence(3, 3, pixels)
        assert visible.all()
        np.testing.assert_allclose(same, pixels, atol=1e-6)

    def test_agrees_with_the_rendered_depth(self, phantom: Phantom) -> None:
        truth = phantom.truth
        centres = pixel_centres(truth.camera.width, truth.camera.height)
        depth_mm = phantom.frame(2)[1].ravel()
        shown = depth_mm > 0
        points, visible = truth.correspondence(2, 5, centres[shown])
        rays = np.c_[truth.camera.cam_from_img(centres[shown]), np.ones(shown.sum())]
        b_from_world, world_from_a = (
            homogeneous(truth.cam_from_world[5]),
            np.linalg.inv(homogeneous(truth.cam_from_world[2])),
        )
        in_b = np.c_[rays * depth_mm[shown, None], np.ones(shown.sum())] @ (b_from_world @ world_from_a).T
        expected = truth.camera.img_from_cam(in_b[visible, :3])
        np.testing.assert_allclose(points[visible], expected, atol=0.01)

    def test_occluded_points_are_not_visible(self, phantoms: dict[str, Phantom]) -> None:
        truth = phantoms["sinus"].truth
        pixels = inside_pixels(truth, 2000)
        points, visible = truth.correspondence(4, 0, pixels)
        in_area = np.isfinite(points[:, 0]) & truth.content.contains(np.nan_to_num(points, nan=-1))
        hidden = in_area & ~visible
        assert hidden.sum() > 20 and visible.sum() > 200
        surface, _ = truth.points(4, pixels)
        in_front, _ = truth.points(0, points[in_area])
        centre = centres_mm(truth)[0]
        gap_mm = np.linalg.norm(surface[in_area] - centre, axis=1) - np.linalg.norm(in_front - centre, axis=1)
        assert (gap_mm[hidden[in_area]] > OCCLUSION_TOLERANCE_MM).all()
        assert (gap_mm[visible[in_area]] <= OCCLUSION_TOLERANCE_MM + 1e-6).all()

    def test_no_correspondence_outside_the_content_area_or_in_black_frames(self) -> None:
        truth = build_phantom(replace(SMALL, black_s=0.1)).truth
        assert not truth.correspondence(5, 6, np.array([[0.5, 0.5], [-4.0, 50.0]]))[1].any()
        assert not truth.correspondence(5, 0, inside_pixels(truth))[1].any()
        assert not truth.correspondence(0, 5, inside_pixels(truth))[1].any()
        assert not truth.depth(0).any()

    def test_exact_depth_matches_the_rendered_depth(self, phantom: Phantom) -> None:
        np.testing.assert_allclose(phantom.truth.depth(8), phantom.frame(8)[1], rtol=1e-5)


class TestFolder:
    def test_video_has_every_frame_at_its_timestamp(self, written: PhantomPaths) -> None:
        truth = PhantomTruth.load(written.root)
        with av.open(str(written.video)) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            assert (stream.width, stream.height, stream.codec_context.pix_fmt) == (160, 128, "yuv420p")
            assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands"}
        rate = PhantomConfig(Path("x"), fps=29.97).rate
        assert [frame.pts * frame.time_base for frame in frames] == [index / rate for index in range(40)]
        assert [frame.timestamp_s for frame in truth.frames] == [float(index / rate) for index in range(40)]
        assert [frame.index for frame in truth.frames] == list(range(40))

    def test_black_frames_duplicates_and_cuts_match_ground_truth(self, written: PhantomPaths) -> None:
        truth = PhantomTruth.load(written.root)
        with av.open(str(written.video)) as container:
            images = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]
        mask = truth.content.mask() > 0
        change = [np.abs(b - a)[mask].mean() for a, b in zip(images[:-1], images[1:], strict=True)]
        black = [frame.index for frame in truth.frames if frame.is_black]
        repeats = [frame.index for frame in truth.frames if frame.is_duplicate]
        assert black == list(range(6)) and len(repeats) == 3
        assert all(images[index][mask].max() < 20 for index in black)
        assert all(images[frame.index][mask].mean() > 40 for frame in truth.frames if not frame.is_black)
        cuts = [b.index for a, b in zip(truth.frames[:-1], truth.frames[1:], strict=True) if b.segment != a.segment]
        assert len(cuts) == 2 and min(cuts) > 6
        ordinary = [change[index - 1] for index in range(7, 40) if index not in cuts + repeats]
        assert max(change[index - 1] for index in repeats) < min(ordinary)
        assert min(change[index - 1] for index in cuts) > 1.5 * max(ordinary)

    def test_duplicates_render_the_same_image(self) -> None:
        phantom = build_phantom(replace(SMALL, frames=20, duplicates=4))
        repeats = [frame for frame in phantom.truth.frames if frame.is_duplicate]
        assert len(repeats) == 4
        for frame in repeats:
            assert frame.content_index == frame.index - 1
            np.testing.assert_array_equal(phantom.frame(frame.index)[0], phantom.frame(frame.index - 1)[0])

    def test_depth_maps_match_the_exact_depth(self, written: PhantomPaths) -> None:
        truth = PhantomTruth.load(written.root)
        for index in (0, 10, 39):
            steps = cv2.imdecode(np.fromfile(written.depth(index), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
            assert steps.dtype == np.uint16
            np.testing.assert_allclose(steps * DEPTH_UNIT_MM, truth.depth(index), atol=DEPTH_UNIT_MM / 2 + 1e-3)
        assert len(list(written.depths.iterdir())) == 40

    def test_calibration_is_the_same_camera(self, written: PhantomPaths) -> None:
        truth = PhantomTruth.load(written.root)
        storage = cv2.FileStorage(written.calibration.read_text(), cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        assert storage.getNode("camera_model").string() == "OPENCV_FISHEYE"
        assert (storage.getNode("image_width").real(), storage.getNode("image_height").real()) == (160, 128)
        matrix, distortion = (storage.getNode(name).mat() for name in ("camera_matrix", "distortion_coefficients"))
        pixels = inside_pixels(truth)
        normalised = truth.camera.cam_from_img(pixels)
        opencv_px = cv2.fisheye.distortPoints(normalised[:, None], matrix, distortion)[:, 0]
        np.testing.assert_allclose(colmap_from_opencv(opencv_px), pixels, atol=1e-6)

    def test_pinhole_calibration(self, tmp_path: Path) -> None:
        run(replace(SMALL, output=tmp_path / "p", frames=2))
        content = PhantomPaths(tmp_path / "p").calibration.read_text()
        storage = cv2.FileStorage(content, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        camera = PhantomTruth.load(tmp_path / "p").camera
        matrix = storage.getNode("camera_matrix").mat()
        assert storage.getNode("camera_model").string() == camera.model_name == "PINHOLE"
        assert not storage.getNode("distortion_coefficients").mat().any()
        np.testing.assert_allclose([matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5], camera.params)

    def test_loaded_ground_truth_equals_the_rendered_one(self, written: PhantomPaths) -> None:
        loaded = PhantomTruth.load(written.root)
        facts = read_yaml(written.truth)
        built = build_phantom(PhantomConfig(Path("x"), **{**facts["config"], "size": tuple(facts["config"]["size"])}))
        np.testing.assert_array_equal(loaded.cam_from_world, built.truth.cam_from_world)
        np.testing.assert_array_equal(loaded.mesh.vertices_mm, built.truth.mesh.vertices_mm)
        np.testing.assert_array_equal(loaded.mesh.triangles, built.truth.mesh.triangles)
        assert loaded.frames == built.truth.frames
        assert loaded.content == built.truth.content
        np.testing.assert_array_equal(loaded.camera.params, built.truth.camera.params)
        mask = cv2.imdecode(np.fromfile(written.mask, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, loaded.content.mask())
        assert read_yaml(written.report)["counts"]["frames"] == 40

    def test_no_depth(self, tmp_path: Path) -> None:
        run(replace(SMALL, output=tmp_path / "p", frames=1, depth=False))
        assert not PhantomPaths(tmp_path / "p").depths.exists()


class TestBadInput:
    @pytest.mark.parametrize(
        "wrong, named",
        [
            ({"output": Path("/")}, "name a folder"),
            ({"frames": 0}, "--frames 0"),
            ({"size": (641, 512)}, "--size 641 512"),
            ({"size": (32, 32)}, "--size 32 32"),
            ({"size": (5000, 512)}, "--size 5000 512"),
            ({"fps": 0.0}, "--fps 0"),
            ({"fps": float("nan")}, "--fps nan"),
            ({"crf": 52}, "--crf 52"),
            ({"seed": -1}, "--seed -1"),
            ({"black_s": -1.0}, "--black_s -1"),
            ({"black_s": 60.0}, "need at least"),
            ({"cuts": 9}, "need at least"),
            ({"duplicates": 9}, "need at least"),
            ({"overlay_text": True, "content_area": "full"}, "--overlay_text"),
        ],
    )
    def test_bad_config(self, wrong: dict[str, Any], named: str) -> None:
        with pytest.raises(LumenError, match=named):
            replace(SMALL, **wrong)

    def test_existing_output_is_kept(self, tmp_path: Path) -> None:
        config = replace(SMALL, output=tmp_path / "p", frames=1)
        run(config)
        with pytest.raises(LumenError, match="--overwrite"):
            run(config)
        before = PhantomPaths(tmp_path / "p").poses.read_bytes()
        run(replace(config, overwrite=True, seed=5))
        assert PhantomPaths(tmp_path / "p").poses.read_bytes() != before
        assert [path.name for path in tmp_path.iterdir()] == ["p"]

    def test_other_folders_are_never_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("all of it")
        with pytest.raises(LumenError, match="has no record of"):
            run(replace(SMALL, output=tmp_path, overwrite=True))
        assert (tmp_path / "thesis.txt").read_text() == "all of it"

    def test_unwritable_output(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(LumenError, match="cannot write"):
            run(replace(SMALL, output=tmp_path / "file" / "p"))

    def test_folder_without_phantom(self, tmp_path: Path) -> None:
        with pytest.raises(LumenError, match="truth.yaml"):
            PhantomTruth.load(tmp_path)


class TestCommand:
    def test_writes_a_phantom(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "p"
        flags = (
            "--anatomy sinus --frames 3 --seed 2 --size 96 64 --fisheye --fps 25 --content_area octagonal --no_depth"
        )
        assert run_command(PhantomConfig, run, [str(output), *flags.split()]) == 0
        assert capsys.readouterr().out.split() == [str(output / "video.mp4"), str(output / "truth.yaml")]
        truth = PhantomTruth.load(output)
        assert (truth.content.shape, truth.camera.model_name, len(truth.frames)) == ("octagonal", "OPENCV_FISHEYE", 3)

    def test_error_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(PhantomConfig, run, [str(tmp_path / "p"), "--frames", "0"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_killed_run_leaves_no_output_and_can_be_repeated(self, tmp_path: Path) -> None:
        output = tmp_path / "p"
        code = (
            "import sys; from data_prep.phantom import *; "
            "sys.exit(run_command(PhantomConfig, run, [sys.argv[1], '--size', '64', '64', '--frames', '400']))"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(output)])
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".partial.p/depth/0000001*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / ".partial.p").exists() and not output.exists()
        run(replace(SMALL, output=output, frames=2))
        assert [path.name for path in tmp_path.iterdir()] == ["p"]


def centres_mm(truth: PhantomTruth) -> np.ndarray:
    """Camera centres in the world: (N, 3), mm."""
    return -np.einsum("nji,nj->ni", truth.cam_from_world[:, :, :3], truth.cam_from_world[:, :, 3])


def homogeneous(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([pose, [[0, 0, 0, 1]]])
