"""In-place undistortion of a sequence: equal to an extraction with the calibration, and reversible."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import pytest

from child_process import run_script
from data_prep.calibration.files import read_calibration
from data_prep.calibration.undistort import plan_undistortion
from data_prep.calibration.undistort_sequence import undistort_sequence
from extraction import digests, extract, only_sequence
from pipeline.command.config import to_mapping
from pipeline.data.images import write_image
from pipeline.data.sequence import ContentArea, Sequence
from pipeline.data.training_files import read_mask
from pipeline.errors import LumenError
from pipeline.outputs.files import partial_path, write_bytes, write_yaml
from pipeline.outputs.folders import joined_output
from pipeline.outputs.owned_files import OutputRecord, files_under
from pipeline.paths import SequencePaths
from videos import disc_mask, endoscopic_frames, write_video

SIZE = (160, 128)
FISHEYE = [78.0, 78.5, 81.0, 63.0, 0.03, -0.01, 0.0, 0.0]
COUNT = 5


def make_camera(model: str = "OPENCV_FISHEYE", params: list[float] = FISHEYE) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=params)


def radial(k: float) -> pycolmap.Camera:
    return make_camera("SIMPLE_RADIAL", [130.0, 81.0, 63.0, k])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a highlight in every frame, so that frame masks differ from the content area."""
    frames = endoscopic_frames(COUNT, mask=disc_mask(SIZE, 58))
    for i, frame in enumerate(frames):
        cv2.circle(frame, (60 + 5 * i, 70), 3, (255, 255, 255), cv2.FILLED)
    return write_video(tmp_path_factory.mktemp("video") / "case.mp4", frames)


@pytest.fixture(scope="module")
def original(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_paths = extract(video, tmp_path_factory.mktemp("original") / "out", keep_all=True)
    return only_sequence(run_paths)[0].root


@pytest.fixture
def paths(original: Path, tmp_path: Path) -> SequencePaths:
    return copy_of(original, tmp_path / "sequence")


def copy_of(sequence: Path, place: Path) -> SequencePaths:
    return SequencePaths(Path(shutil.copytree(sequence, place)))


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def as_jpeg(image: np.ndarray, quality: int = 95) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def test_images_and_masks_are_undistorted_from_the_recorded_ones(paths: SequencePaths, original: Path) -> None:
    content = read_mask(paths.mask)
    before = digests(original)
    returned = undistort_sequence(paths, make_camera())
    plan = plan_undistortion(make_camera(), content)
    assert returned.camera.params.tolist() == plan.camera.params.tolist()
    assert np.array_equal(read(paths.mask), plan.mask(content))
    for index in range(COUNT):
        image = plan.image(read(paths.recorded.image(index)))
        assert image[read(paths.mask) > 0].mean() > 50 and not image[read(paths.mask) == 0].any()
        assert np.array_equal(read(paths.image(index)), as_jpeg(image))
        recorded = read(paths.recorded.frame_mask(index))
        assert np.array_equal(read(paths.frame_mask(index)), plan.mask(recorded))
        assert cv2.countNonZero(read(paths.frame_mask(index))) < cv2.countNonZero(read(paths.mask))
    assert digests(paths.recorded.root) == before
    changed = digests(paths.root)
    assert all(changed[file] != digest for file, digest in before.items())
    assert set(changed) == {*before, *(f"recorded/{file}" for file in before), "calibration.yaml"}


def test_result_equals_an_extraction_with_the_calibration(video: Path, paths: SequencePaths, tmp_path: Path) -> None:
    undistort_sequence(paths, make_camera())
    numbers = tmp_path / "fisheye.txt"
    numbers.write_text(" ".join(map(str, FISHEYE)))
    calibrated, expected = only_sequence(extract(video, tmp_path / "out", keep_all=True, calibration=numbers))
    sequence = Sequence.load(paths.sequence)
    assert sequence.calibration == replace(expected.calibration, origin="self", file=None)
    assert expected.calibration.origin == "file"
    assert replace(sequence, calibration=expected.calibration) == expected
    assert paths.mask.read_bytes() == calibrated.mask.read_bytes()
    for index in range(COUNT):
        inside = read(paths.mask) > 0
        assert cv2.absdiff(read(paths.image(index)), read(calibrated.image(index)))[inside].mean() < 4
        assert (read(paths.frame_mask(index)) != read(calibrated.frame_mask(index))).mean() < 0.01


def test_sequence_yaml_states_the_camera_and_the_recorded_file_stays(paths: SequencePaths) -> None:
    margin_px = Sequence.load(paths.sequence).content_area.margin_px
    assert paths.as_recorded == paths
    plan = undistort_sequence(paths, radial(-0.2))
    facts = Sequence.load(paths.sequence)
    assert (facts.calibration.state, facts.calibration.origin) == ("undistorted", "self")
    assert (facts.calibration.model, facts.calibration.params) == ("SIMPLE_RADIAL", [130.0, 81.0, 63.0, -0.2])
    assert facts.calibration.pinhole == plan.camera.params.tolist()
    assert facts.calibration.content_kept == 1.0 and facts.calibration.file is None
    assert facts.content_area == ContentArea.of_mask(read(paths.mask), margin_px)
    assert paths.as_recorded == paths.recorded
    recorded = Sequence.load(paths.recorded.sequence)
    assert (recorded.calibration.state, recorded.calibration.origin) == ("uncalibrated", None)


@pytest.mark.parametrize(
    "camera",
    [
        radial(-0.2),
        make_camera(),
        make_camera("RADIAL", [130.0, 81.0, 63.0, -0.2, 0.03]),
        make_camera("SIMPLE_RADIAL_FISHEYE", [78.0, 81.0, 63.0, 0.03]),
        make_camera("SIMPLE_PINHOLE", [130.0, 81.0, 63.0]),
    ],
    ids=lambda camera: camera.model_name,
)
def test_calibration_yaml_holds_the_distorted_camera(camera: pycolmap.Camera, paths: SequencePaths) -> None:
    undistort_sequence(paths, camera)
    again = read_calibration(paths.calibration, SIZE)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.4, 0.4, 9))
    rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=-1)
    assert np.allclose(again.img_from_cam(rays), camera.img_from_cam(rays), atol=1e-6)


@pytest.mark.parametrize("camera", [radial(0.0), make_camera("PINHOLE", [130.0, 131.0, 81.0, 63.0])])
def test_camera_without_distortion_keeps_the_image_bytes(
    camera: pycolmap.Camera, paths: SequencePaths, original: Path
) -> None:
    before = digests(original)
    # First another camera, whose images must be replaced.
    for first in (None, radial(-0.2)):
        if first is not None:
            undistort_sequence(paths, first)
        assert undistort_sequence(paths, camera).is_identity
        after = digests(paths.root)
        assert {file for file in before if after[file] != before[file]} == {"sequence.yaml"}
        assert digests(paths.recorded.root) == before
        facts = Sequence.load(paths.sequence)
        assert (facts.calibration.state, facts.calibration.origin) == ("undistorted", "self")
        assert facts.content_area == Sequence.load(paths.recorded.sequence).content_area


def test_another_camera_starts_from_the_recorded_frames(paths: SequencePaths, original: Path, tmp_path: Path) -> None:
    undistort_sequence(paths, make_camera())
    undistort_sequence(paths, radial(-0.2))
    fresh = copy_of(original, tmp_path / "fresh")
    undistort_sequence(fresh, radial(-0.2))
    assert digests(paths.root) == digests(fresh.root)
    assert digests(paths.recorded.root) == digests(original)


def test_interrupted_and_repeated_call_gives_the_same_bytes(
    paths: SequencePaths, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = copy_of(original, tmp_path / "undisturbed")
    undistort_sequence(undisturbed, make_camera())
    undistort_sequence(paths, radial(-0.2))
    written: list[Path] = []

    def write_a_few(path: Path, image: Any, options: list[int]) -> None:
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write_image(path, image, options)

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.calibration.undistort_sequence.write_image", write_a_few)
        with pytest.raises(KeyboardInterrupt):
            undistort_sequence(paths, make_camera())
    # Neither camera applies to all frames.
    assert Sequence.load(paths.sequence).calibration.state == "uncalibrated"
    undistort_sequence(paths, make_camera())
    assert digests(paths.root) == digests(undisturbed.root)


KILLED = """
import os, signal, sys
from pathlib import Path
from data_prep.calibration.undistort_sequence import undistort_sequence
from pipeline.paths import SequencePaths
# Not first: importing pycolmap before zlib is loaded breaks OpenCV's PNG encoder.
import pycolmap

left = int(sys.argv[2])

def killed_at_last(function):
    def call(*arguments, **settings):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)
    return call

for name in ("link", "rename", "replace"):
    setattr(os, name, killed_at_last(getattr(os, name)))
camera = pycolmap.Camera(model="OPENCV_FISHEYE", width=160, height=128, params=eval(sys.argv[3]))
undistort_sequence(SequencePaths(Path(sys.argv[1])), camera)
"""


# 12 links, 10 replaced frame files, then the content mask, calibration.yaml and sequence.yaml.
@pytest.mark.parametrize("operation", [7, 12, 17, 25])
def test_killed_and_repeated_call_gives_the_same_bytes(
    operation: int, paths: SequencePaths, original: Path, tmp_path: Path
) -> None:
    undisturbed = copy_of(original, tmp_path / "undisturbed")
    undistort_sequence(undisturbed, make_camera())
    assert run_script(KILLED, tmp_path, str(paths.root), str(operation), repr(FISHEYE)).returncode == -9
    assert paths.recorded.sequence.exists() == (operation > 12)
    assert digests(paths.as_recorded.root).items() >= digests(original).items()
    undistort_sequence(paths, make_camera())
    assert digests(paths.root) == digests(undisturbed.root)


def test_recorded_frames_are_links_or_copies_if_links_fail(
    paths: SequencePaths, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = copy_of(original, tmp_path / "linked")
    inode = linked.image(2).stat().st_ino
    undistort_sequence(linked, make_camera())
    assert linked.recorded.image(2).stat().st_ino == inode

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    undistort_sequence(paths, make_camera())
    assert digests(paths.root) == digests(linked.root)


def test_symbolic_link_is_recorded_as_its_target(paths: SequencePaths, original: Path) -> None:
    outside = paths.root.parent / "outside.jpg"
    paths.image(1).rename(outside)
    paths.image(1).symlink_to(Path("../../outside.jpg"))
    undistort_sequence(paths, make_camera())
    shown = SequencePaths(original).image(1).read_bytes()
    assert paths.recorded.image(1).read_bytes() == outside.read_bytes() == shown
    assert paths.image(1).read_bytes() != shown


def test_unreadable_frames_are_unchanged_and_counted(paths: SequencePaths, caplog: pytest.LogCaptureFixture) -> None:
    paths.image(2).write_bytes(b"not a JPEG")
    paths.image(3).unlink()
    mask = paths.frame_mask(2).read_bytes()
    with caplog.at_level(logging.WARNING, "data_prep.calibration.undistort_sequence"):
        undistort_sequence(paths, make_camera())
    (record,) = caplog.records
    assert "2 of 5 frames" in record.getMessage()
    assert paths.image(2).read_bytes() == b"not a JPEG" and not paths.image(3).exists()
    assert paths.frame_mask(2).read_bytes() == mask
    assert paths.image(4).read_bytes() != paths.recorded.image(4).read_bytes()
    assert Sequence.load(paths.sequence).calibration.state == "undistorted"


def test_frame_without_a_mask_gets_none(paths: SequencePaths) -> None:
    paths.frame_mask(1).unlink()
    undistort_sequence(paths, make_camera())
    assert not paths.frame_mask(1).exists() and not paths.recorded.frame_mask(1).exists()
    assert paths.image(1).read_bytes() != paths.recorded.image(1).read_bytes()


def test_leftovers_of_a_killed_run_are_not_recorded(paths: SequencePaths) -> None:
    OutputRecord.create(paths.root, "extract.py").adopt(files_under(paths.root))
    for leftover in (partial_path(paths.image(0)), paths.recorded.images / "00000099.jpg"):
        with joined_output(paths.root):
            write_bytes(leftover, b"half")
    undistort_sequence(paths, make_camera())
    assert {path.name for path in paths.recorded.images.iterdir()} == {f"{index:08d}.jpg" for index in range(COUNT)}


def test_user_files_in_recorded_stay(paths: SequencePaths) -> None:
    paths.recorded.images.mkdir(parents=True)
    (paths.recorded.images / "00000099.jpg").write_bytes(b"mine")
    undistort_sequence(paths, make_camera())
    assert (paths.recorded.images / "00000099.jpg").read_bytes() == b"mine"


def test_content_beyond_the_maximum_field_of_view_is_cut_off(paths: SequencePaths) -> None:
    plan = undistort_sequence(paths, make_camera(), max_field_of_view_deg=50, jpeg_quality=50)
    assert np.array_equal(read(paths.image(0)), as_jpeg(plan.image(read(paths.recorded.image(0))), 50))
    facts = Sequence.load(paths.sequence).calibration
    assert facts.content_kept is not None and facts.content_kept < 0.7
    assert facts.field_of_view_deg is not None and facts.field_of_view_deg[2] == pytest.approx(50, abs=1)


def test_sequence_extracted_with_a_calibration_is_refused(video: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "fisheye.txt"
    numbers.write_text(" ".join(map(str, FISHEYE)))
    paths, _ = only_sequence(extract(video, tmp_path / "out", keep_all=True, calibration=numbers))
    before = digests(paths.root)
    with pytest.raises(LumenError, match="without a calibration"):
        undistort_sequence(paths, make_camera())
    assert digests(paths.root) == before


def test_bad_requests_are_refused_before_any_change(paths: SequencePaths) -> None:
    before = digests(paths.root)
    with pytest.raises(LumenError, match="OpenCV does not support FOV"):
        undistort_sequence(paths, make_camera("FOV", [130.0, 130.0, 81.0, 63.0, 0.5]))
    with pytest.raises(LumenError, match="field of view"):
        undistort_sequence(paths, make_camera(), max_field_of_view_deg=200)
    with pytest.raises(ValueError, match="mask"):
        undistort_sequence(paths, pycolmap.Camera(model="PINHOLE", width=80, height=64, params=[65, 65, 40, 32]))
    assert digests(paths.root) == before
    paths.recorded.images.mkdir(parents=True)
    paths.recorded.image(2).write_bytes(b"mine")
    with pytest.raises(LumenError, match="already exists: move it away"):
        undistort_sequence(paths, make_camera())
    assert paths.recorded.image(2).read_bytes() == b"mine"
    assert digests(paths.root).items() >= before.items()


def test_damaged_frame_mask_is_reported_and_the_sequence_stays_uncalibrated(paths: SequencePaths) -> None:
    paths.frame_mask(2).write_bytes(b"not a PNG")
    with pytest.raises(LumenError, match="00000002.jpg.png is not an image"):
        undistort_sequence(paths, make_camera())
    assert Sequence.load(paths.sequence).calibration.state == "uncalibrated"


def test_old_sequence_yaml_without_origin_loads(paths: SequencePaths) -> None:
    content = to_mapping(Sequence.load(paths.sequence))
    del content["calibration"]["origin"]
    write_yaml(paths.sequence, content)
    assert Sequence.load(paths.sequence).calibration.origin is None
    undistort_sequence(paths, make_camera())
    assert Sequence.load(paths.sequence).calibration.origin == "self"
