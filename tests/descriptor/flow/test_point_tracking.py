"""Point tracking through frames of a smooth texture with known motion."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from descriptor.flow.flow_finder import FlowFinder
from descriptor.flow.follow import KnownPoints, choose_keyframes, follow_points, keyframe_directions
from descriptor.flow.working_frames import WorkingFrames
from pipeline.conventions import WORKING_SIZE_PX
from pipeline.data.tracks import Tracks
from pipeline.paths import SequencePaths

SIZE = (330, 260)
BOX = (13, 7, 301, 241)
LARGE_SIZE, LARGE_BOX = (1023, 771), (31, 17, 971, 723)
# Motion of the texture in each frame, to the right and down, px.
SHIFTS = np.array([[0, 0], [1.3, -0.6], [2.7, -1.25], [3.45, -2.1], [4.8, -3.3]])
FIRST_INDEX = 40
BLOCK = (slice(90, 130), slice(140, 190))


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    left, top, width, height = box
    mask = np.zeros(size[::-1], np.uint8)
    mask[top : top + height, left : left + width] = 255
    return mask


def moving_texture(shifts: np.ndarray, size: tuple[int, int] = SIZE, scale: float = 1.0) -> list[np.ndarray]:
    """Frames (H, W, 3) of one texture, shifted by `shifts` (F, 2) px; `scale` widens its structures."""
    rng = np.random.default_rng(0)
    width, height = size[0] + 80, size[1] + 80
    texture = np.full((height, width), 110.0, np.float32)
    for sigma, contrast in ((2, 18), (5, 18), (12, 18)):
        noise = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), scale * sigma)
        texture += (contrast * noise / noise.std()).astype(np.float32)
    columns, rows = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    frames = []
    for x, y in shifts.astype(np.float32):
        seen = cv2.remap(texture, columns + 40 - x, rows + 40 - y, cv2.INTER_CUBIC)
        frames.append(np.dstack([np.clip(np.round(seen), 0, 255).astype(np.uint8)] * 3))
    return frames


def working_frames(
    folder: Path, images: list[np.ndarray], content: np.ndarray, masks: dict[int, np.ndarray] | None = None
) -> WorkingFrames:
    """A sequence of images; `masks` are masks of single frames, by row."""
    paths = SequencePaths(folder / "sequence")
    paths.images.mkdir(parents=True)
    paths.frame_masks.mkdir()
    for row, image in enumerate(images):
        cv2.imwrite(str(paths.image(FIRST_INDEX + row)), image, [cv2.IMWRITE_JPEG_QUALITY, 98])
    for row, mask in (masks or {}).items():
        cv2.imwrite(str(paths.frame_mask(FIRST_INDEX + row)), mask)
    return WorkingFrames(paths, range(FIRST_INDEX, FIRST_INDEX + len(images)), content)


def follow(frames: WorkingFrames, folder: Path, keyframes: tuple[int, ...] = (0,), points: int = 400) -> Tracks:
    parts = folder / "parts"
    parts.mkdir()
    find = FlowFinder(frames, keyframe_directions(len(frames), np.array(keyframes)))
    return follow_points(frames, np.array(keyframes), find, points, parts)


def with_highlight(size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.full(size[::-1], 255, np.uint8)
    mask[BLOCK] = 0
    return mask


def observed_near(tracks: Tracks, row: int, margin_px: float) -> int:
    """Number of points of a frame on the highlight or within a margin of it."""
    pixels = tracks.pixels[tracks.in_frame(row)]
    low = np.array([BLOCK[1].start, BLOCK[0].start]) - margin_px
    high = np.array([BLOCK[1].stop, BLOCK[0].stop]) + margin_px
    return int(((pixels > low) & (pixels < high)).all(axis=1).sum())


@pytest.mark.parametrize(("box", "size"), [(BOX, SIZE), (LARGE_BOX, LARGE_SIZE)])
def test_points_move_with_the_texture(tmp_path: Path, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    shrunk = max(1.0, max(box[2:]) / WORKING_SIZE_PX)
    shifts = SHIFTS * shrunk
    frames = working_frames(tmp_path, moving_texture(shifts, size, shrunk), box_mask(box, size))
    tracks = follow(frames, tmp_path)
    assert tracks.frame_index.tolist() == list(range(FIRST_INDEX, FIRST_INDEX + len(SHIFTS)))
    at_start = np.full((tracks.track_count, 2), np.nan)
    at_start[tracks.track[tracks.in_frame(0)]] = tracks.pixels[tracks.in_frame(0)]
    # Corners are whole pixels of the working frame, so their exact positions in the frame are known.
    lattice = (at_start - box[:2]) * frames.size / box[2:] - 0.5
    np.testing.assert_allclose(lattice, np.round(lattice), atol=1e-3)
    for row in range(1, len(shifts)):
        part = tracks.in_frame(row)
        error_px = tracks.pixels[part] - at_start[tracks.track[part]] - shifts[row]
        assert len(error_px) > 0.9 * tracks.track_count > 200
        np.testing.assert_allclose(np.median(error_px, axis=0), 0, atol=0.05 * shrunk)
        assert np.median(np.linalg.norm(error_px, axis=1)) < 0.1 * shrunk


def test_no_point_is_seeded_on_or_beside_a_highlight(tmp_path: Path) -> None:
    images, content = moving_texture(SHIFTS), box_mask(BOX, SIZE)
    hidden = follow(working_frames(tmp_path, images, content, {0: with_highlight()}), tmp_path)
    (tmp_path / "open").mkdir()
    shown = follow(working_frames(tmp_path / "open", images, content), tmp_path / "open")
    assert observed_near(shown, 0, 0) > 5
    assert observed_near(hidden, 0, 3) == 0 and observed_near(hidden, 0, 25) > 5


def test_no_point_is_found_on_or_beside_a_highlight(tmp_path: Path) -> None:
    frames = working_frames(tmp_path, moving_texture(SHIFTS), box_mask(BOX, SIZE), {2: with_highlight()})
    tracks = follow(frames, tmp_path)
    assert min(observed_near(tracks, row, 0) for row in (0, 1, 3, 4)) > 5
    # The mask is checked before the forward and backward positions are averaged.
    assert observed_near(tracks, 2, 2) == 0 and observed_near(tracks, 2, 25) > 5


def test_no_point_is_at_the_edge_of_the_content_area(tmp_path: Path) -> None:
    content = np.zeros(SIZE[::-1], np.uint8)
    cv2.circle(content, (160, 130), 110, 255, cv2.FILLED)
    images = [cv2.bitwise_and(image, image, mask=content) for image in moving_texture(SHIFTS)]
    tracks = follow(working_frames(tmp_path, images, content), tmp_path)
    from_center_px = np.linalg.norm(tracks.pixels - [160.5, 130.5], axis=1)
    assert 95 < from_center_px.max() < 108.5


@pytest.mark.parametrize("value", [0, 255])
def test_points_are_recovered_after_a_few_frames_without_any(tmp_path: Path, value: int) -> None:
    images = moving_texture(0.4 * np.arange(8)[:, None] * [1.0, 0.5])
    for row in (3, 4, 5):
        images[row][:] = value
    tracks = follow(working_frames(tmp_path, images, box_mask(BOX, SIZE)), tmp_path, keyframes=(0, 7))
    of_first = tracks.track <= tracks.track[tracks.in_frame(0)].max()
    seen = np.bincount(tracks.frame, of_first, len(images))
    assert (seen[3:6] == 0).all()
    assert (seen[[1, 2, 6, 7]] > 0.9 * seen[0]).all() and seen[0] > 200


@pytest.mark.parametrize("masked", [False, True])
def test_a_frame_without_texture_is_not_a_keyframe(tmp_path: Path, masked: bool) -> None:
    images = moving_texture(np.repeat(SHIFTS[:1], 5, axis=0))
    nothing = np.zeros(SIZE[::-1], np.uint8)
    for row in (0, 3):
        if not masked:
            images[row][:] = 0
    masks = {0: nothing, 3: nothing} if masked else {}
    frames = working_frames(tmp_path, images, box_mask(BOX, SIZE), masks)
    keyframes, unreadable = choose_keyframes(frames)
    assert keyframes[0] == 1 and 3 not in keyframes and unreadable == []
    tracks = follow(frames, tmp_path, tuple(keyframes.tolist()))
    assert {1, 2, 4} <= set(tracks.frame.tolist())


def test_keyframes_follow_image_motion_and_skip_unreadable_frames(tmp_path: Path) -> None:
    step_px = 0.3 * 0.05 * float(np.hypot(*BOX[2:]))
    images = moving_texture(step_px * (three_sides(12) - 6))
    frames = working_frames(tmp_path, images, box_mask(BOX, SIZE))
    SequencePaths(tmp_path / "sequence").image(FIRST_INDEX + 1).unlink()
    keyframes, unreadable = choose_keyframes(frames)
    assert keyframes.tolist() == list(range(0, 37, 4)) and unreadable == [1]


def three_sides(steps: int) -> np.ndarray:
    """A path along three sides of a square in unit steps: (3 * steps + 1, 2)."""
    up, low, high = np.arange(steps), np.zeros(steps), np.full(steps, steps)
    sides = [np.column_stack(side) for side in ((up, low), (high, up), (high - up, high))]
    return np.concatenate([*sides, [[0, steps]]]).astype(np.float64)


@pytest.mark.parametrize("length", [0.06, 0.15])
def test_a_sequence_with_little_motion_has_eight_keyframes(tmp_path: Path, length: float) -> None:
    """A motion of 6 or 15 % of the diagonal, with a default of one keyframe every 5 %."""
    path_px = length * float(np.hypot(*BOX[2:])) * np.linspace(0, 1, 28)[:, None] * [0.8, 0.6]
    frames = working_frames(tmp_path, moving_texture(path_px), box_mask(BOX, SIZE))
    keyframes, _ = choose_keyframes(frames)
    assert 8 <= len(keyframes) <= 16
    assert np.diff(keyframes).max() <= 4


def test_identical_frames_are_not_keyframes(tmp_path: Path) -> None:
    frames = working_frames(tmp_path, moving_texture(np.zeros((12, 2))), box_mask(BOX, SIZE))
    assert choose_keyframes(frames)[0].tolist() == [0]


def test_tracks_are_reused_by_a_later_run(tmp_path: Path) -> None:
    frames = working_frames(tmp_path, moving_texture(SHIFTS), box_mask(BOX, SIZE))
    once = follow(frames, tmp_path, (0, 3))
    folder = tmp_path / "again"
    folder.mkdir()
    keyframes = np.array([0, 3])
    again = follow_points(frames, keyframes, KnownPoints(once), 400, folder)
    for name in ("frame", "track", "pixels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name))


def test_identical_frames_have_separate_points(tmp_path: Path) -> None:
    still = np.concatenate([np.repeat(SHIFTS[:1], 5, axis=0), SHIFTS[1:]])
    frames = working_frames(tmp_path, moving_texture(still), box_mask(BOX, SIZE))
    keyframes = (0, 3, 6)
    once = follow(frames, tmp_path, keyframes)
    assert once.seed_frame is not None and set(once.seed_frame) == set(keyframes)
    folder = tmp_path / "again"
    folder.mkdir()
    known = KnownPoints(Tracks.load(saved(once, tmp_path)))
    again = follow_points(frames, np.array(keyframes), known, 400, folder)
    for name in ("frame", "track", "pixels", "seed_frame"):
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name))


def saved(tracks: Tracks, folder: Path) -> Path:
    tracks.save(folder / "tracks.npz")
    return folder / "tracks.npz"


def test_unknown_points_are_not_found(tmp_path: Path) -> None:
    frames = working_frames(tmp_path, moving_texture(SHIFTS), box_mask(BOX, SIZE))
    known = KnownPoints(follow(frames, tmp_path))
    assert list(known(0, np.array([[1.5, 2.5], [3.5, 4.5]], np.float32))) == []
    assert list(known(0, np.zeros((0, 2), np.float32))) == []
