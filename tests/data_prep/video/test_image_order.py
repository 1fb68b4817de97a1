"""Order, frame indices and timestamps from image names."""

import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from data_prep.video.image_names import natural_order, read_names
from data_prep.video.image_order import NumberMeaning, OrderedImages, order_images
from pipeline.errors import LumenError

FOLDER = Path("/images")
EPOCH_S = 1403636579
EPOCH_NS = 1403636579763555584
# Larger numbers cannot be frame indices.
LARGEST_INDEX = 10**8 - 1


def ordered(names: Sequence[str], meaning: NumberMeaning = "auto") -> OrderedImages:
    """Parse `names`, which are in the expected order, from a shuffled list."""
    shuffled = [FOLDER / name for name in names]
    random.Random(1).shuffle(shuffled)
    result = order_images(read_names(shuffled), meaning, fps=30)
    assert [path.name for path in result.paths] == [Path(name).name for name in names]
    assert all(np.diff(result.indices) > 0) and all(np.diff(result.timestamps_s) > 0)
    assert result.indices[0] >= 0 and result.indices[-1] <= LARGEST_INDEX
    return result


def steps_s(result: OrderedImages) -> list[float]:
    return np.diff(result.timestamps_s).round(6).tolist()


@pytest.mark.parametrize("step, unit, divisor", [(10**8, "nano", 1), (10**5, "micro", 1000), (100, "milli", 10**6)])
def test_epoch_timestamps_are_recognised_by_magnitude(step: int, unit: str, divisor: int) -> None:
    result = ordered([f"{EPOCH_NS // divisor + i * step}.png" for i in range(6)])
    assert f"times in {unit}seconds" in result.assumption
    assert result.indices == (0, 1, 2, 3, 4, 5)
    assert result.timestamps_s[0] == pytest.approx(EPOCH_NS / 1e9, abs=1e-3)
    assert steps_s(result) == pytest.approx([0.1] * 5)
    assert result.fps == pytest.approx(10)


def test_whole_epoch_seconds() -> None:
    result = ordered([f"{EPOCH_S + i}.png" for i in range(4)])
    assert "times in seconds" in result.assumption and result.timestamps_s[0] == EPOCH_S


@pytest.mark.parametrize(
    "step, unit", [(33333333, "nano"), (10**8, "nano"), (16666, "micro"), (40000, "micro"), (1000, "milli")]
)
@pytest.mark.parametrize("first", [0, 1_048_575, 46_787_885_992])
def test_relative_timestamps_are_recognised_by_their_steps(first: int, step: int, unit: str) -> None:
    result = ordered([f"{first + i * step}.png" for i in range(6)])
    assert f"times in {unit}seconds" in result.assumption
    expected = step * {"nano": 1e-9, "micro": 1e-6, "milli": 1e-3}[unit]
    assert steps_s(result) == pytest.approx([expected] * 5, abs=1e-6)


def test_gaps_between_nanoseconds_are_kept() -> None:
    frames = (0, 1, 2, 40, 41, 42, 43)
    result = ordered([f"{EPOCH_NS + i * 33333333}.png" for i in frames])
    assert np.diff(result.timestamps_s) == pytest.approx(np.diff(frames) / 30, abs=1e-6)
    assert result.indices == tuple(range(7)) and result.fps == pytest.approx(30, abs=0.01)


@pytest.mark.parametrize("fps", [30, 24, 30 / 1.001, 60, 15])
def test_milliseconds_are_recognised_as_a_rounded_frame_rate(fps: float) -> None:
    frames = [i for i in range(40) if i not in (7, 8, 30)]
    for rounded in (round, int):
        result = ordered([f"{rounded(1000 * i / fps):06d}.png" for i in frames])
        assert "times in milliseconds" in result.assumption
        assert np.diff(result.timestamps_s) == pytest.approx(np.diff(frames) / fps, abs=1.01e-3)


@pytest.mark.parametrize(
    "numbers",
    [
        *([0, 1, 2, 9, 10, 11, 100], [2603, 2604, 2606, 10000], [0, 10, 22, 30, 40, 50], [0, 40, 80, 120, 160]),
        *([0, 300, 600], np.linspace(0, 1999, 50).round().astype(int).tolist()),
    ],
)
@pytest.mark.parametrize("template", ["{}.png", "frame_{:06d}.JPG", "f{:04d}_640x480.png", "2-{}.jpeg"])
def test_small_numbers_are_frame_numbers(numbers: list[int], template: str) -> None:
    result = ordered([template.format(number) for number in numbers])
    assert result.indices == tuple(numbers)
    assert result.timestamps_s == pytest.approx([number / 30 for number in numbers])
    assert "frame numbers; timestamps assume 30 frames per second (--image_fps)" in result.assumption


@pytest.mark.parametrize(
    "names",
    [
        *(["0.033", "0.067", "0.1"], ["0.0", "0.033", "0.1", "0.133"], ["0", "0.5", "1", "1.5", "10.0"]),
        *(["0.1", "0.2", "0.25"], ["0.01", "0.1", "0.2"], ["0,033", "0,067", "0,1"], ["-0.1", "0.0", "0.1"]),
        [f"{i / 10:.1f}" for i in range(13)],
        [f"{i / 30:.6f}" for i in range(13)],
        [f"{1305031102.175304 + i / 30:.6f}" for i in range(5)],
    ],
)
@pytest.mark.parametrize("template", ["{}.png", "frame_{}.png", "cam0_{}.png"])
def test_decimals_are_seconds(names: list[str], template: str) -> None:
    result = ordered([template.format(name) for name in names])
    assert "times in seconds" in result.assumption
    assert result.timestamps_s == tuple(float(name.replace(",", ".")) for name in names)
    assert result.indices == tuple(range(len(names)))


def test_decimals_of_milliseconds() -> None:
    result = ordered([f"{i * 33.333:.3f}.png" for i in range(5)])
    assert "milliseconds" in result.assumption and steps_s(result) == pytest.approx([0.033333] * 4)


@pytest.mark.parametrize("names", [[f"1.{i:03d}" for i in range(1, 15)], [f"1.{i}" for i in range(1, 13)]])
def test_count_after_a_point_is_not_a_decimal(names: list[str]) -> None:
    result = ordered([f"{name}.png" for name in names])
    assert result.indices == tuple(range(1, len(names) + 1)) and "frame numbers" in result.assumption


@pytest.mark.parametrize("template, divisor", [("t_{}ms.png", 1000), ("{}s.png", 1), ("{}us_x.png", 10**6)])
def test_unit_in_the_name_is_used(template: str, divisor: int) -> None:
    result = ordered([template.format(40 * i) for i in range(4)])
    assert result.timestamps_s == tuple(40 * i / divisor for i in range(4))


@pytest.mark.parametrize(
    "names, step_s",
    [
        ([f"20260105_1230{i // 30:02d}_{i % 30 * 33:03d}" for i in range(60)], 0.033),
        ([f"20260105123000{40 * i:03d}" for i in range(10)], 0.04),
        ([f"2026-01-05T12-30-{i:02d}" for i in range(10)], 1),
        ([f"2026.01.05_12.30.{i:02d}" for i in range(10)], 1),
        ([f"IMG_20260105_1230{i}0" for i in range(5)], 10),
        (["20261231_235959_900", "20270101_000000_000", "20270101_000000_100"], 0.1),
        ([f"vlcsnap-2026-01-05-12h30m{i:02d}s{i * 37 % 1000:03d}" for i in range(10)], 1.037),
        ([f"00-{i // 1500:02d}-{i // 25 % 60:02d}.{i % 25 * 40:03d}" for i in range(1490, 1520)], 0.04),
        ([f"clip_1_{i // 1500:02d}_{i // 25 % 60:02d}_{i % 25 * 40:03d}" for i in range(1490, 1520)], 0.04),
        ([f"{EPOCH_S + i // 10}_{i % 10 * 10**8:09d}" for i in range(25)], 0.1),
        ([f"{EPOCH_S + i // 10}_{i % 10 * 10**8}" for i in range(25)], 0.1),
        ([f"{EPOCH_S + i // 10}-{i % 10 * 10**5:06d}" for i in range(25)], 0.1),
    ],
)
def test_dates_and_split_seconds_are_timestamps(names: list[str], step_s: float) -> None:
    result = ordered([f"{name}.png" for name in names])
    assert np.median(steps_s(result)) == pytest.approx(step_s)
    assert result.indices == tuple(range(len(names)))


def test_timestamps_do_not_contain_the_date() -> None:
    result = ordered([f"20260105_12300{i}.png" for i in range(5)])
    assert result.timestamps_s == (0, 1, 2, 3, 4) and "2026" not in result.assumption


@pytest.mark.parametrize(
    "names, indices",
    [
        ([f"20260105_123000_{i:03d}" for i in range(1, 9)], range(1, 9)),
        ([f"20260105_12300{s}_{i:03d}" for s in range(3) for i in range(1, 9)], range(24)),
        ([f"20261305_123000_{i:03d}" for i in range(1, 9)], range(1, 9)),
    ],
)
def test_count_after_a_date_is_not_a_time(names: list[str], indices: range) -> None:
    assert ordered([f"{name}.png" for name in names]).indices == tuple(indices)


def test_frame_number_next_to_a_timestamp_is_the_index() -> None:
    result = ordered([f"{i:06d}_{EPOCH_NS + i * 10**8}.png" for i in (3, 4, 6)])
    assert result.indices == (3, 4, 6) and steps_s(result) == pytest.approx([0.1, 0.2])


def test_descending_timestamps_are_ignored() -> None:
    result = ordered([f"{i:06d}_{EPOCH_NS + i * 3 % 5 * 10**8}.png" for i in range(5)])
    assert result.indices == (0, 1, 2, 3, 4) and "frame numbers" in result.assumption


@pytest.mark.parametrize("base", [10**23, 10**8 - 2, 2026_0105_0001, 10**60])
def test_large_frame_numbers_are_relative_to_the_first(base: int) -> None:
    result = ordered([f"{base + i}.png" for i in (0, 1, 3, 4)])
    assert result.indices == (0, 1, 3, 4) and "relative to the first image" in result.assumption


def test_names_of_24_digits() -> None:
    assert ordered([f"{i:024d}.png" for i in range(7, 12)]).indices == (7, 8, 9, 10, 11)
    padded = ordered([f"{EPOCH_NS + i * 10**8:024d}.png" for i in range(5)])
    assert padded.timestamps_s[0] == pytest.approx(EPOCH_NS / 1e9)
    random_numbers = sorted(random.Random(seed).randrange(10**23, 10**24) for seed in range(9))
    assert ordered([f"{number}.png" for number in random_numbers]).indices == tuple(range(9))


def test_no_timestamp_exceeds_any_clock() -> None:
    result = ordered([f"{10**23 + i * 10**8}.png" for i in range(5)])
    assert result.timestamps_s == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_negative_numbers_come_first() -> None:
    assert ordered([f"{i}.png" for i in range(-12, 3)]).indices == tuple(range(15))
    assert ordered([f"frame_{i}.png" for i in (-2, -1, 1)]).indices == (0, 1, 3)


def test_dash_before_every_number_is_not_a_minus() -> None:
    assert ordered([f"-{i:03d}.png" for i in range(1, 5)]).indices == (1, 2, 3, 4)
    assert ordered([f"frame-{i}.png" for i in (1, 2, 10)]).indices == (1, 2, 10)


def test_separators_do_not_change_the_order() -> None:
    assert ordered(["frame-1.png", "frame_2.png", "frame 3.png", "frame10.png"]).indices == (1, 2, 3, 10)


@pytest.mark.parametrize(
    "names",
    [
        *(["a", "b", "c"], ["f_1", "f_2", "f_2 (1)", "f_3"], ["frame2_64x48", "frame10_64x48", "last"]),
        [f"{i:04x}" for i in range(250, 300)],
        sorted(map(str, random.Random(2).sample(range(10**7, 10**8), 20))),
        sorted(f"{random.Random(i).getrandbits(128):032x}" for i in range(20)),
    ],
)
def test_names_without_usable_numbers_count_from_0(names: list[str]) -> None:
    result = ordered([f"{name}.png" for name in names])
    assert result.indices == tuple(range(len(names)))
    assert "no frame numbers" in result.assumption


def test_numbers_identify_images_regardless_of_words() -> None:
    assert ordered(["I_0001.png", "P_0002.png", "P_0003.png", "I_0004.png"]).indices == (1, 2, 3, 4)


def test_image_numbers_option_takes_precedence() -> None:
    names = [f"{40 * i:06d}.png" for i in range(5)]
    assert ordered(names).indices[-1] == 160
    for meaning, expected in (("s", 40.0), ("ms", 0.04), ("us", 0.00004)):
        assert ordered(names, meaning).timestamps_s[1] == expected
    times = [f"{33333 * i}.png" for i in range(5)]
    assert ordered(times, "frames").indices[1] == 33333
    decimals = ordered(["0.033.png", "0.067.png", "0.1.png"], "frames")
    assert decimals.timestamps_s == pytest.approx([0, 1 / 30, 2 / 30])
    with pytest.raises(LumenError, match="--image_numbers ns"):
        ordered(["a.png", "b.png"], "ns")


def test_single_image_uses_its_last_number() -> None:
    assert ordered(["scene2_frame12.png"]).indices == (12,)
    assert ordered([f"{10**23}.png"]).indices == (0,)


_PIECES = (
    *(
        "frame",
        "_",
        "-",
        ".",
        ",",
        "1",
        "0",
        "00",
        "42",
        "1403636579",
        "1403636579763555584",
        "20260105",
        "123000",
        "L",
    ),
    *("depth", "é", "²", "٣", " ", "(1)", "ms", "s", "cam", "0x1f", "\udce9", "=", "a", "f0", "10" * 60),
)


@pytest.mark.parametrize("seed", range(200))
def test_any_names_give_valid_indices_and_timestamps(seed: int) -> None:
    rng = random.Random(seed)
    before, after = ("".join(rng.choices(_PIECES, k=rng.randint(0, 3))) for _ in range(2))
    step = rng.choice([1, 3, 33, 1000, 33333, 33333333, 10**8])
    first = rng.choice([0, 1, 99, 10**6, 10**18, EPOCH_NS, 10**23])
    names = {f"{before}{first + i * step:0{rng.choice([1, 8])}d}{after}.png" for i in range(rng.randint(1, 12))}
    meanings: tuple[NumberMeaning, ...] = ("auto", "frames", "s", "ns")
    for meaning in meanings:
        try:
            result = order_images(read_names([FOLDER / name for name in names]), meaning, fps=30)
        except LumenError as error:
            assert meaning in str(error)
            continue
        assert sorted(path.name for path in result.paths) == sorted(names)
        assert all(np.diff(result.indices) > 0) and all(np.diff(result.timestamps_s) > 0)
        assert result.indices[0] >= 0 and result.indices[-1] <= LARGEST_INDEX
        assert result.fps > 0 and np.isfinite([result.fps, *result.timestamps_s]).all()


def test_natural_order_of_arbitrary_names() -> None:
    names = ["a2b", "a10b", "b", "b1", "m²_3", "é_1", "٣", "0.5.1", "  7", "_", "0.5"]
    paths = [FOLDER / f"{name}.png" for name in names]
    first, *others = (natural_order(random.Random(seed).sample(paths, len(paths))) for seed in range(5))
    assert all(other == first for other in others)
    assert first.index(paths[0]) < first.index(paths[1])


def test_folders_with_restarting_numbers_are_concatenated() -> None:
    places = count()
    names = [FOLDER / f"part{part}" / f"{number}.png" for part in (1, 2, 10) for number in (0, 1, 2)]
    result = order_images(read_names(sorted(names)), "auto", 30)
    assert list(result.paths) == names
    assert all(index == place for index, place in zip(result.indices, places, strict=False))
