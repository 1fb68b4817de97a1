"""Tracks: selection, numbering, saving and loading."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.tracks import Tracks
from pipeline.errors import LumenError


def some_tracks() -> Tracks:
    """Four tracks with 3, 1, 0 and 2 observations in four frames. The third frame has no observation."""
    return Tracks(
        frame_index=np.array([7, 10, 13, 19]),
        frame=np.array([0, 0, 1, 1, 3, 3]),
        track=np.array([0, 1, 3, 0, 0, 3]),
        pixels=np.arange(12, dtype=np.float32).reshape(6, 2) + np.float32(0.1),
    )


def no_tracks() -> Tracks:
    nothing = np.zeros(0, np.int64)
    return Tracks(np.array([7, 10]), nothing, nothing, np.zeros((0, 2), np.float32))


def test_tracks_count_their_observations() -> None:
    tracks = some_tracks()
    assert tracks.track_count == 4
    assert tracks.lengths().tolist() == [3, 1, 0, 2]


def test_the_observations_of_a_frame_are_a_slice() -> None:
    tracks = some_tracks()
    assert [tracks.track[tracks.in_frame(row)].tolist() for row in range(4)] == [[0, 1], [3, 0], [], [0, 3]]
    np.testing.assert_array_equal(tracks.pixels[tracks.in_frame(1)], tracks.pixels[2:4])


def test_a_selection_keeps_frames_and_track_numbers() -> None:
    selected = some_tracks().select(np.array([True, True, False, True, True, False]))
    assert selected.track_count == 4
    assert selected.frame_index.tolist() == [7, 10, 13, 19]
    assert selected.track.tolist() == [0, 1, 0, 0]
    assert selected.frame.tolist() == [0, 0, 1, 3]
    np.testing.assert_array_equal(selected.pixels, some_tracks().pixels[[0, 1, 3, 4]])
    assert selected.lengths().tolist() == [3, 1, 0, 0]


@pytest.mark.parametrize(
    ("length", "rows", "numbers"),
    [(1, [0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 2]), (2, [0, 2, 3, 4, 5], [0, 1, 0, 0, 1]), (3, [0, 3, 4], [0, 0, 0])],
)
def test_long_tracks_are_renumbered(length: int, rows: list[int], numbers: list[int]) -> None:
    kept = some_tracks().at_least(length)
    assert kept.track.tolist() == numbers
    assert kept.track_count == max(numbers) + 1
    assert kept.frame_index.tolist() == [7, 10, 13, 19]
    np.testing.assert_array_equal(kept.pixels, some_tracks().pixels[rows])


def test_without_a_long_enough_track_none_is_kept() -> None:
    kept = some_tracks().at_least(4)
    assert (kept.track_count, len(kept.frame), len(kept.frame_index)) == (0, 0, 4)


@pytest.mark.parametrize("make", [some_tracks, no_tracks])
def test_saved_tracks_load_exactly(tmp_path: Path, make: Callable[[], Tracks]) -> None:
    tracks = make()
    tracks.save(tmp_path / "new" / "tracks.npz")
    loaded = Tracks.load(tmp_path / "new" / "tracks.npz")
    assert loaded.track_count == tracks.track_count
    for name in ("frame_index", "frame", "track", "pixels"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(tracks, name))
        assert getattr(loaded, name).dtype == (np.float32 if name == "pixels" else np.int64)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # The byte is in the data of the first array, which a checksum covers.
    content[content.index(b"NUMPY") + 130] ^= 0xFF
    path.write_bytes(content)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def unsort(path: Path) -> None:
    tracks = some_tracks()
    save_arrays(path, **{**vars(tracks), "frame": tracks.frame[::-1]})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a wrong byte": flip_a_byte,
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "other arrays": lambda path: save_arrays(path, frame=np.arange(3)),
    "frames out of order": unsort,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_rejected(tmp_path: Path, what: str) -> None:
    path = tmp_path / "tracks.npz"
    some_tracks().save(path)
    DAMAGE[what](path)
    with pytest.raises(LumenError, match="tracks.npz does not hold tracks"):
        Tracks.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="cannot read .*tracks.npz: no such file"):
        Tracks.load(tmp_path / "tracks.npz")


def test_unsorted_observations_are_rejected() -> None:
    with pytest.raises(ValueError, match="sorted by frame"):
        Tracks(np.arange(3), np.array([0, 2, 1]), np.array([0, 0, 0]), np.zeros((3, 2), np.float32))


def test_arrays_of_different_lengths_are_rejected() -> None:
    with pytest.raises(ValueError, match="same length"):
        Tracks(np.arange(3), np.array([0, 1, 2]), np.array([0, 0, 0]), np.zeros((2, 2), np.float32))
