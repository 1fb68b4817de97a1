"""Choice of the images that are frames, by their names."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from data_prep.video.image_kinds import choose_kind
from data_prep.video.image_names import read_names
from pipeline.errors import LumenError

FOLDER = Path("/images")
C3VD = ("{0}_color.png", "{0:04d}_depth.tiff", "{0:04d}_normals.tiff", "{0:04d}_flow.tiff", "{0:04d}_occlusion.png")

# Two unsynchronised cameras, and the delay of each.
KINDS = {"ir": 0, "uv": 7}


def files(*templates: str, numbers: Iterable[int] = range(9)) -> list[str]:
    return [template.format(number) for number in numbers for template in templates]


def chosen(names: list[str], wanted: str | None = None) -> tuple[set[str], str]:
    """The chosen names, and the note about the choice."""
    paths = [FOLDER / name for name in names]
    random.Random(1).shuffle(paths)
    images, notes = choose_kind(FOLDER, read_names(paths), wanted)
    return {str(image.path.relative_to(FOLDER)) for image in images}, " ".join(notes)


@pytest.mark.parametrize(
    "frames, others",
    [
        (C3VD[0], C3VD[1:]),
        ("FrameBuffer_{:04d}.png", ["Depth_{:04d}.png"]),
        ("color/{:010d}.jpg", ["depth/{:010d}.png"]),
        ("images/{:04d}.jpg", ["masks/{:04d}.png", "depth/{:04d}.png"]),
        ("Frames/image_{:04d}.png", ["Pixelwise Depths/aov_image_{:04d}.png"]),
        ("{}.png", ["{}_depth.png"]),
        ("{}.png", ["{}_mask.png", "{}_thumbnail.jpg", "depthmap{}.png"]),
        ("frame_{:05d}.png", ["frame_{:05d}_seg.png"]),
        ("image_{}.png", ["label_{}.png"]),
        ("{}_rgb.png", ["{}_whatever.png"]),
        ("left_color_{}.png", ["left_depth_{}.png"]),
        ("rgb_{}.png", ["depth_1{}.png"]),
        ("depth_study_{}_COLOR.PNG", ["depth_study_{}_NORMAL.PNG"]),
    ],
)
def test_kind_that_shows_frames_is_chosen_and_logged(frames: str, others: list[str]) -> None:
    taken, note = chosen(files(frames, *others))
    assert taken == set(files(frames))
    assert "using" in note and "ignoring" in note and note.endswith("(--image_kind)")


def test_mask_next_to_frames_is_ignored() -> None:
    taken, note = chosen([*files("{}.png"), "mask.bmp"])
    assert taken == set(files("{}.png"))
    assert "using plain (9), ignoring mask (1)" in note


@pytest.mark.parametrize(
    "templates, kinds",
    [
        (["left_{:04d}.png", "right_{:04d}.png"], ["left", "right"]),
        (["{:04d}_L.png", "{:04d}_R.png"], ["l", "r"]),
        (["left/{:04d}.png", "right/{:04d}.png"], ["left", "right"]),
        (["left_color_{}.png", "right_color_{}.png", "left_depth_{}.png"], ["left_color", "right_color"]),
        (["left_1{}.png", "right_2{}.png"], ["left", "right"]),
        (["a_{}.png", "b_{}.png"], ["a", "b"]),
        (["{}.png", "{}_foo.png"], ["plain", "foo"]),
        (["{}.jpg", "{}.png"], ["jpg", "png"]),
        (["{:04d}.jpg", "{:04d}.jpg.png"], ["plain", "jpg"]),
        (["{}_ir.jpg", "{}_uv.png"], ["ir", "uv"]),
        (["cam0_{:04d}.png", "cam1_{:04d}.png"], ["cam0", "cam1"]),
        (["cam0/data/{}.png", "cam1/data/{}.png"], ["cam0", "cam1"]),
        (["{:04d}_0.png", "{:04d}_1.png"], ["0", "1"]),
        (["rgb_640x480_{}.png", "bgr_320x240_{}.png"], ["rgb", "bgr"]),
    ],
)
def test_ambiguous_kinds_are_refused_until_one_is_named(templates: list[str], kinds: list[str]) -> None:
    names = files(*templates)
    with pytest.raises(LumenError) as caught:
        chosen(names)
    message = str(caught.value)
    assert "--image_kind" in message and len(message) < 300 and "\n" not in message
    for kind, template in zip(kinds, templates, strict=False):
        assert f"{kind} (9)" in message
        assert chosen(names, kind)[0] == set(files(template))


def test_kinds_with_separate_timestamps_are_refused() -> None:
    stamps = [
        f"{word}_{1403636579763555584 + shift + i * 10**8}.png" for i in range(9) for word, shift in KINDS.items()
    ]
    seconds = [f"{word}_{1403.1 + shift / 1000 + i / 30:.4f}.png" for i in range(9) for word, shift in KINDS.items()]
    for names in (stamps, seconds):
        with pytest.raises(LumenError, match=r"ir \(9\), uv \(9\)"):
            chosen(names)
        assert chosen(names, "uv")[0] == {name for name in names if name.startswith("uv")}


def test_image_without_a_number_is_not_a_colour_frame() -> None:
    assert chosen([*files("{}_color.png"), "coverage.png"])[0] == set(files("{}_color.png"))


def test_two_images_with_one_number_are_two_kinds() -> None:
    with pytest.raises(LumenError, match=r"a \(1\), b \(1\)"):
        chosen(["a_1.png", "b_1.png"])


@pytest.mark.parametrize("wanted", ["depth", "_depth", "DEPTH", "depth.tiff", "tiff depth"])
def test_kind_can_be_named_in_several_ways(wanted: str) -> None:
    taken, note = chosen(files(*C3VD), wanted)
    assert taken == set(files(C3VD[1])) and "using depth (9), ignoring color (9), flow (9)" in note


def test_unknown_kind_is_refused_and_known_kinds_are_listed() -> None:
    with pytest.raises(LumenError, match=r"no kind of images called infrared; .* color \(9\), .*depth \(9\)"):
        chosen(files(*C3VD), "infrared")
    with pytest.raises(LumenError, match=r"left_color \(9\), right_color \(9\)"):
        chosen(files("left_color_{}.png", "right_color_{}.png", "left_depth_{}.png"), "color")


@pytest.mark.parametrize("template", ["{}_depth.png", "mask{:04d}.bmp", "{}.normals.png"])
def test_folder_without_frames_is_refused(template: str) -> None:
    with pytest.raises(LumenError, match="not video frames"):
        chosen(files(template))
    kind = {"d": "depth", "m": "mask", "n": "normals"}[template.strip("{}_.")[0]]
    assert chosen(files(template), kind)[0] == set(files(template))


def test_depth_and_normals_alone_are_not_frames() -> None:
    with pytest.raises(LumenError, match=r"depth \(9\), normals \(9\)"):
        chosen(files("{}_depth.png", "{}_normals.png"))


@pytest.mark.parametrize(
    "names",
    [
        files("frame_{}.png"),
        ["a.png", "b.png", "c.png"],
        [*files("frame{}_640x480.png"), "last.png"],
        ["I_0001.png", "P_0002.png", "P_0003.png", "I_0004.png"],
        ["1.jpg", "2.PNG", "3.png", "4.jpeg"],
        files("_start_000015_end_000076_stride_1_segment_00/images/{:08d}.jpg"),
        [f"part{part}/{name}" for part in range(3) for name in files("{:04d}.png")],
        [f"{i:04x}.png" for i in range(100)],
        [f"{random.Random(i).getrandbits(128):032x}.png" for i in range(50)],
        ["3f2504e0-4f89-11d3-9a0c-0305e82c3301.png", "d9428888-122b-11e1-b85c-61cd3cbb3210.png"],
        ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6)) + ".png" for i in range(50)],
        ["0.1.png", "0.01.png", "0.10.jpg"],
        ["cam_01.png", "cam_02.png"],
        ["-1.png", "1.png"],
    ],
)
def test_all_images_of_one_kind_are_used(names: list[str]) -> None:
    assert chosen(names) == (set(names), "")


@pytest.mark.parametrize("names", [["1.png", "01.png"], ["frame_1.png", "frame-1.png"], ["a.jpg", "a.png"]])
def test_names_that_differ_only_in_zeros_and_separators_are_refused(names: list[str]) -> None:
    with pytest.raises(LumenError, match="equal words and numbers"):
        chosen([*names, "2.png", "3.png"])


def test_many_kinds_fit_on_one_line() -> None:
    words = [f"{letter * 40}{{}}.png" for letter in "abcdefghijklmnop"]
    with pytest.raises(LumenError, match="10 more") as caught:
        chosen(files(*words))
    assert len(str(caught.value)) < 400


def test_note_on_the_choice_names_no_patient() -> None:
    _, note = chosen([*files("smith_{}.png"), "mask.png"])
    assert "smith" not in note and "mask (1)" in note
