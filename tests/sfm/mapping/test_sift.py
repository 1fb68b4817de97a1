"""SIFT on images with a known translation in pixels; exact tracks from matches."""

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from child_process import stop_script_when_ready
from pipeline.data.tracks import Tracks
from pipeline.errors import LumenError
from pipeline.paths import SequencePaths
from repository import ROOT
from sfm.mapping.sift import match_sift, tracks_from_matches

WIDTH, HEIGHT = 320, 240
RADIUS = 110
FRAMES = [7, 8, 9, 12, 13]
# Offset of each frame in the texture, px.
WINDOW = np.array([(20, 30), (24, 28), (29, 27), (31, 33), (36, 31)])
FRAME_WITHOUT_MASK = 9


@dataclass(frozen=True)
class Matched:
    paths: SequencePaths
    tracks: Tracks


def camera(**changes: object) -> pycolmap.Camera:
    facts = {"model": "PINHOLE", "width": WIDTH, "height": HEIGHT, "params": [200, 200, 160, 120]}
    made = pycolmap.Camera(**(facts | changes))
    made.has_prior_focal_length = True
    return made


def texture(seed: int = 0) -> np.ndarray:
    """A smooth texture with detail at several scales, larger than the frames."""
    noise = np.random.default_rng(seed).standard_normal((HEIGHT + 80, WIDTH + 80)).astype(np.float32)
    layers = [sigma * cv2.GaussianBlur(noise, (0, 0), sigma) for sigma in (1.5, 3.0, 6.0)]
    return cv2.normalize(sum(layers), None, 30, 220, cv2.NORM_MINMAX).astype(np.uint8)


def disc() -> np.ndarray:
    return cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (WIDTH // 2, HEIGHT // 2), RADIUS, 255, -1)


def own_mask(place: int) -> np.ndarray:
    """The disc without a spot that moves from frame to frame, like a highlight."""
    return cv2.circle(disc(), (120 + 20 * place, 100), 15, 0, -1)


def make_sequence(root: Path, mirrored: bool = False) -> SequencePaths:
    paths = SequencePaths(root)
    paths.images.mkdir(parents=True)
    paths.frame_masks.mkdir()
    cv2.imwrite(str(paths.mask), disc())
    scene = texture()
    for place, (index, (x, y)) in enumerate(zip(FRAMES, WINDOW, strict=True)):
        frame = np.where(disc() > 0, scene[y : y + HEIGHT, x : x + WIDTH], 0)
        frame = frame[:, ::-1] if mirrored else frame
        cv2.imwrite(str(paths.image(index)), frame, [cv2.IMWRITE_JPEG_QUALITY, 97])
        if index != FRAME_WITHOUT_MASK and not mirrored:
            cv2.imwrite(str(paths.frame_mask(index)), own_mask(place))
    return paths


def match(paths: SequencePaths, folder: Path, frame_index: list[int] = FRAMES) -> Tracks:
    return match_sift(paths, frame_index, camera(), folder, folder / "colmap.log", seed=3)


def observations_in(tracks: Tracks, index: int) -> int:
    part = tracks.in_frame(tracks.frame_index.tolist().index(index))
    return part.stop - part.start


def assert_same(tracks: Tracks, expected: Tracks) -> None:
    for name in ("frame_index", "frame", "track", "pixels"):
        np.testing.assert_array_equal(getattr(tracks, name), getattr(expected, name))


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Matched:
    folder = tmp_path_factory.mktemp("sift")
    paths = make_sequence(folder / "sequence")
    return Matched(paths, match(paths, folder / "work"))


def points(*numbers: int) -> np.ndarray:
    """Keypoints with distinct pixels."""
    return np.array([(number + 0.25, 10 * number) for number in numbers], np.float32).reshape(-1, 2)


def described(tracks: Tracks) -> set[tuple[tuple[int, int], ...]]:
    """Each track as (frame index, keypoint number in `points`), ordered by frame."""
    seen = zip(tracks.frame_index[tracks.frame].tolist(), tracks.pixels[:, 0].astype(int).tolist(), strict=True)
    by_track: dict[int, list[tuple[int, int]]] = {}
    for number, observation in zip(tracks.track.tolist(), seen, strict=True):
        by_track.setdefault(number, []).append(observation)
    return {tuple(observations) for observations in by_track.values()}


def test_a_chain_of_matches_is_one_track_at_the_pixels_of_the_keypoints() -> None:
    keypoints = [points(1, 2), points(3), points(4, 5, 6)]
    tracks = tracks_from_matches([2, 4, 7], keypoints, {(0, 1): np.array([[1, 0]]), (1, 2): np.array([[0, 2]])})
    assert tracks.frame_index.tolist() == [2, 4, 7]
    assert tracks.frame.tolist() == [0, 1, 2]
    assert tracks.track.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(tracks.pixels, points(2, 3, 6))


def test_points_without_a_common_match_are_separate_tracks() -> None:
    keypoints = [points(1, 2), points(3, 4), points(5, 6)]
    matches = {(0, 1): np.array([[0, 1], [1, 0]]), (1, 2): np.array([[0, 0]])}
    assert described(tracks_from_matches([0, 1, 2], keypoints, matches)) == {((0, 1), (1, 4)), ((0, 2), (1, 3), (2, 5))}


def test_the_order_of_the_frames_in_a_pair_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    keypoints = [points(*range(20))] * 6
    pairs = [(first, second) for first in range(6) for second in range(first + 1, 6)]
    matches = {pair: rng.integers(0, 20, (9, 2)) for pair in pairs}
    mixed = {(a, b) if b % 2 else (b, a): rows if b % 2 else rows[:, ::-1] for (a, b), rows in matches.items()}
    assert_same(tracks_from_matches(range(6), keypoints, mixed), tracks_from_matches(range(6), keypoints, matches))


def test_a_track_across_the_whole_video_is_joined_for_any_order_of_matches() -> None:
    count = 500
    order = np.random.default_rng(0).permutation(count - 1).tolist()
    matches = {(row, row + 1): np.array([[0, 0]]) for row in order}
    tracks = tracks_from_matches(range(count), [points(1)] * count, matches)
    assert tracks.lengths().tolist() == [count]


def test_a_wrong_match_between_far_frames_does_not_join_two_points() -> None:
    keypoints = [points(1, 2)] * 4
    matches = {(0, 3): np.array([[0, 1]])} | {(row, row + 1): np.array([[0, 0], [1, 1]]) for row in range(3)}
    tracks = tracks_from_matches(range(4), keypoints, matches)
    assert described(tracks) == {tuple((row, number) for row in range(4)) for number in (1, 2)}


def test_of_two_keypoints_in_a_frame_the_one_matched_with_the_nearest_frame_is_kept() -> None:
    keypoints = [points(1), points(2), points(3, 4)]
    matches = {(0, 1): np.array([[0, 0]]), (0, 2): np.array([[0, 0]]), (1, 2): np.array([[0, 1]])}
    assert described(tracks_from_matches([0, 1, 2], keypoints, matches)) == {((0, 1), (1, 2), (2, 4))}


def test_random_matches_never_put_two_keypoints_of_a_frame_into_a_track() -> None:
    rng = np.random.default_rng(1)
    keypoints = [points(*range(30))] * 8
    matches = {(first, second): rng.integers(0, 30, (12, 2)) for first in range(8) for second in range(first + 1, 8)}
    tracks = tracks_from_matches(range(8), keypoints, matches)
    assert len(np.unique(tracks.track * 8 + tracks.frame)) == len(tracks.frame) > 100
    assert tracks.lengths().min() >= 2


@pytest.mark.parametrize("keypoints", [[], [points(), points()], [points(1), points(2)]])
def test_no_matches_make_no_tracks(keypoints: list[np.ndarray]) -> None:
    tracks = tracks_from_matches(range(len(keypoints)), keypoints, {})
    assert tracks.track_count == 0 and tracks.pixels.shape == (0, 2)
    assert len(tracks.frame_index) == len(keypoints)


@pytest.mark.parametrize("row", [(0, 1), (-1, 0)])
def test_a_match_with_an_invalid_keypoint_index_is_refused(row: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        tracks_from_matches([0, 1, 2], [points(1), points(2), points(3)], {(0, 1): np.array([row])})


def test_tracks_move_with_the_images(matched: Matched) -> None:
    tracks = matched.tracks
    assert (tracks.lengths() == len(FRAMES)).sum() > 50
    fixed = tracks.pixels + WINDOW[tracks.frame]
    _, first = np.unique(tracks.track, return_index=True)
    error_px = np.linalg.norm(fixed - fixed[first][tracks.track], axis=1)
    moved = np.ones(len(error_px), bool)
    moved[first] = False
    assert np.median(error_px[moved]) < 0.3
    assert (error_px < 3).mean() > 0.98


def test_no_keypoint_is_outside_its_mask_or_at_the_edge_of_the_content_area(matched: Matched) -> None:
    for row, index in enumerate(FRAMES):
        x, y = np.floor(matched.tracks.pixels[matched.tracks.in_frame(row)]).astype(int).T
        assert len(x) > 50
        assert np.hypot(x - WIDTH // 2, y - HEIGHT // 2).max() < RADIUS - 3
        if index != FRAME_WITHOUT_MASK:
            assert (own_mask(row)[y, x] == 255).all()


def test_pixels_are_in_colmap_convention_so_that_mirroring_maps_x_to_width_minus_x(tmp_path: Path) -> None:
    shutil.copytree(make_sequence(tmp_path / "with_masks").root, tmp_path / "plain")
    shutil.rmtree(SequencePaths(tmp_path / "plain").frame_masks)
    plain = match(SequencePaths(tmp_path / "plain"), tmp_path / "first", FRAMES[:2])
    mirrored = match(make_sequence(tmp_path / "mirrored", mirrored=True), tmp_path / "second", FRAMES[:2])
    there = np.array([WIDTH, 0]) + np.array([-1, 1]) * mirrored.pixels[mirrored.in_frame(0)]
    gaps = plain.pixels[plain.in_frame(0)][:, None] - there
    nearest = gaps[np.arange(len(gaps)), np.linalg.norm(gaps, axis=2).argmin(axis=1)]
    np.testing.assert_allclose(np.median(nearest, axis=0), 0, atol=0.05)
    assert (np.linalg.norm(nearest, axis=1) < 0.2).mean() > 0.8


def test_the_same_seed_gives_the_same_tracks(matched: Matched, tmp_path: Path) -> None:
    assert_same(match(matched.paths, tmp_path), matched.tracks)


def test_extracted_frames_are_not_extracted_again(matched: Matched, tmp_path: Path) -> None:
    paths = SequencePaths(tmp_path / "sequence")
    shutil.copytree(matched.paths.root, paths.root)
    match(paths, tmp_path / "work", FRAMES[:3])
    for index in FRAMES[:3]:
        paths.image(index).unlink()
    assert_same(match(paths, tmp_path / "work"), matched.tracks)


@pytest.mark.parametrize("delay_s", [0.0, 0.25, 0.5])
def test_a_killed_run_resumes_to_the_same_tracks(matched: Matched, tmp_path: Path, delay_s: float) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT / "tests" / "support")!r}]
import test_sift
from pipeline.paths import SequencePaths
from pipeline.progress import ProgressBar
from sfm.mapping import sift
sift._FRAMES_AT_ONCE = sift._PAIRS_AT_ONCE = 1
ProgressBar.update = lambda bar, count=1: print("ready")
test_sift.match(SequencePaths(Path({str(matched.paths.root)!r})), Path("work"))
"""
    stop_script_when_ready(script, tmp_path, signal.SIGKILL, delay_s)
    assert (tmp_path / "work" / "sift.db").exists()
    assert_same(match(matched.paths, tmp_path / "work"), matched.tracks)


def test_frames_that_cannot_be_used_have_no_observations(
    matched: Matched, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = SequencePaths(tmp_path / "sequence")
    shutil.copytree(matched.paths.root, paths.root)
    truncated, small, empty, text, missing, black = bad = [14, 15, 16, 17, 18, 19]
    whole = paths.image(FRAMES[0]).read_bytes()
    paths.image(truncated).write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(paths.image(small)), cv2.imread(str(paths.image(FRAMES[0])))[:200])
    paths.image(empty).write_bytes(b"")
    paths.image(text).write_bytes(b"not an image")
    cv2.imwrite(str(paths.image(black)), np.zeros((HEIGHT, WIDTH), np.uint8))
    tracks = match(paths, tmp_path / "work", FRAMES + bad)
    assert tracks.frame_index.tolist() == FRAMES + bad
    assert [observations_in(tracks, index) for index in bad] == [0] * len(bad)
    assert_same(match(paths, tmp_path / "work"), matched.tracks)
    assert f"{len(bad) - 1} frames have no SIFT features, the first is {paths.image(truncated).name}" in caplog.text
    assert not paths.image(missing).exists()


def test_one_or_no_frame_is_not_an_error(matched: Matched, tmp_path: Path) -> None:
    assert match(matched.paths, tmp_path, FRAMES[:1]).track_count == 0
    assert match(matched.paths, tmp_path, []).track_count == 0


def test_a_content_area_of_the_wrong_size_is_refused(matched: Matched, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match=r"320x240 pixels, but the camera 640x240: extract the sequence again"):
        match_sift(matched.paths, FRAMES, camera(width=640), tmp_path, tmp_path / "log", seed=0)


def test_a_database_of_another_camera_or_a_damaged_one_is_refused(matched: Matched, tmp_path: Path) -> None:
    match(matched.paths, tmp_path, FRAMES[:1])
    with pytest.raises(LumenError, match=r"sift\.db was made with another camera: delete it"):
        match_sift(matched.paths, FRAMES, camera(params=[201, 200, 160, 120]), tmp_path, tmp_path / "log", seed=0)
    (tmp_path / "sift.db").write_bytes(b"not a database")
    with pytest.raises(LumenError, match=r"sift\.db is damaged or cannot be written: delete it"):
        match(matched.paths, tmp_path, FRAMES[:1])
