"""Loading training data as clips: sequences, sizes and the cache."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from descriptor.clips.data_root import DataSettings, find_sequences, load_clips
from descriptor.frame_cache import default_cache_root
from pipeline.data.images import write_image
from pipeline.data.training_files import read_mask
from pipeline.errors import LumenError
from textured_plane import write_plane


@pytest.fixture
def root(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    write_plane(data / "003" / "b", frames=3)
    write_plane(data / "003" / "a", frames=4, seed=1)
    write_plane(data / "colon" / "c", frames=2, seed=2)
    (data / "003" / "reports").mkdir()
    shutil.copytree(data / "003" / "a", data / "003" / ".partial.a")
    return data


@pytest.fixture
def settings(tmp_path: Path) -> DataSettings:
    return DataSettings(image_downsampling=2.0, network_downsampling=32, cache_root=tmp_path / "cache")


def test_sequences_are_found_by_patient_in_the_order_of_their_names(root: Path) -> None:
    assert find_sequences(root) == [root / "003" / "a", root / "003" / "b", root / "colon" / "c"]
    assert find_sequences(root, [3]) == find_sequences(root, ["003"]) == [root / "003" / "a", root / "003" / "b"]
    assert find_sequences(root, ["colon"]) == [root / "colon" / "c"]
    assert find_sequences(root / "003" / "a") == [root / "003" / "a"]


def test_a_missing_patient_or_root_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="has no patient 4: choose from 003, colon"):
        find_sequences(root, [4])
    with pytest.raises(LumenError, match="does not exist"):
        find_sequences(tmp_path / "nowhere")


def test_an_exact_name_takes_precedence_over_leading_zeros(tmp_path: Path) -> None:
    for patient in ("01", "1"):
        write_plane(tmp_path / patient / "plane", frames=2)
    assert find_sequences(tmp_path, ["1"]) == [tmp_path / "1" / "plane"]
    assert find_sequences(tmp_path, ["001"]) == [tmp_path / "01" / "plane"]


def test_patients_cannot_be_selected_in_one_sequence(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane", frames=2)
    assert find_sequences(tmp_path / "plane") == [tmp_path / "plane"]
    with pytest.raises(LumenError, match="is one sequence"):
        find_sequences(tmp_path / "plane", ["1"])


def test_all_clips_have_the_largest_required_size(root: Path, settings: DataSettings) -> None:
    small = root / "003" / "a"
    mask = np.zeros_like(read_mask(small / "undistorted_mask.bmp"))
    mask[80:120, 100:150] = 255
    for path in (small / "undistorted_mask.bmp", small / "colmap" / "0" / "undistorted_mask.bmp"):
        write_image(path, mask)
    (alone,) = load_clips([small], replace(settings, pose_direction="cam_from_world"))
    assert alone.images.shape == (4, 32, 32, 3)
    both = load_clips([small, root / "003" / "b"], replace(settings, pose_direction="cam_from_world"))
    assert [clip.images.shape[1:] for clip in both] == [(96, 128, 3)] * 2
    assert both[0].mask.sum() == 20 * 25


def test_a_valid_input_size_is_used(root: Path, settings: DataSettings, caplog: pytest.LogCaptureFixture) -> None:
    (clip,) = load_clips([root / "003" / "a"], replace(settings, input_size=(160, 192)))
    assert clip.images.shape[1:3] == (160, 192)
    with caplog.at_level("WARNING"):
        (clip,) = load_clips([root / "003" / "a"], replace(settings, input_size=(64, 64)))
    assert clip.images.shape[1:3] == (64, 64)
    assert "96 128 holds all of it" in caplog.text
    with pytest.raises(LumenError, match="--input_size 100 128: choose multiples"):
        load_clips([root / "003" / "a"], replace(settings, input_size=(100, 128)))


def test_frames_are_decoded_once_and_again_after_a_change(root: Path, settings: DataSettings) -> None:
    sequence, cache = root / "003" / "a", settings.cache_root

    def load(changed: DataSettings = settings) -> set[Path]:
        load_clips([sequence], changed)
        return set(cache.iterdir())

    first = load()
    assert len(first) == 1
    (path,) = first
    written = path.stat().st_mtime_ns
    assert load() == first and path.stat().st_mtime_ns == written
    assert load(replace(settings, reuse_cache=False)) == first and path.stat().st_mtime_ns > written
    assert len(load(replace(settings, image_downsampling=4.0))) == 2
    image = next((sequence / "images").iterdir())
    write_image(image, np.full((192, 256, 3), 90, np.uint8))
    assert len(load()) == 3


def test_a_damaged_cache_is_rebuilt(root: Path, settings: DataSettings) -> None:
    sequence = root / "003" / "a"
    (before,) = load_clips([sequence], settings)
    expected = np.array(before.images)
    (path,) = settings.cache_root.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    (after,) = load_clips([sequence], settings)
    np.testing.assert_array_equal(after.images, expected)


def test_an_unreadable_frame_is_named_and_nothing_is_cached(root: Path, settings: DataSettings) -> None:
    image = root / "003" / "a" / "images" / "00000102.jpg"
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(LumenError, match="00000102.jpg is missing or damaged"):
        load_clips([root / "003" / "a"], settings)
    assert not list(settings.cache_root.glob("*"))
    image.unlink()
    with pytest.raises(LumenError, match="00000102.jpg"):
        load_clips([root / "003" / "a"], settings)


def test_the_default_cache_follows_freedesktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_root() == Path("/somewhere/lumensfm/frames")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_root() == Path.home() / ".cache" / "lumensfm" / "frames"
