"""File names that are not valid UTF-8 are read, written, printed and recorded like others."""

import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import phantom
from data_prep.phantom import PhantomConfig
from descriptor.evaluation.sequences import TestConfig, measure
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from extraction import EXTRACT
from pipeline.command.config import configure, load_config, save_config
from pipeline.data.images import read_pixels, write_image
from pipeline.data.training_files import read_training_data
from pipeline.manifest import Manifest, Stage
from pipeline.outputs.file_names import ffmpeg_url, printable
from pipeline.outputs.files import read_yaml, write_json, write_yaml
from pipeline.reconstruction_paths import ReconstructionPaths
from quick_settings import FAST
from reconstruct import ReconstructConfig, reconstruct
from repository import ROOT
from sfm import evaluate, view
from sfm.evaluate import EvaluateConfig
from sfm.view import ViewConfig
from textured_plane import write_plane
from videos import endoscopic_frames, write_video

NAME = "caf\udce9 1:2"
LOCALES = [
    {"LC_ALL": "C.UTF-8"},
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
]
COMMAND = """
import logging, sys
from dataclasses import dataclass
from pathlib import Path
from pipeline.command.run_command import run_command
from pipeline.errors import LumenError

@dataclass
class Config:
    '''Do something.'''
    file: Path
    '''A file.'''
    fail: bool = False
    '''Whether to fail.'''

def run(config):
    logging.getLogger("pipeline.test").info("reading %s", config.file)
    print("first", config.file)
    if config.fail:
        raise LumenError(f"{config.file} is empty")
    return config.file

sys.exit(run_command(Config, run))
"""


@pytest.fixture(autouse=True)
def no_captured_log(caplog: pytest.LogCaptureFixture) -> None:
    """Names that are not UTF-8 must not get into the report of a test, which xdist sends as UTF-8."""
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / NAME).mkdir()
    return tmp_path / NAME


@dataclass
class Settings:
    """Settings."""

    file: Path
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain", "plain"),
        ("café", "café"),
        ("caf\udce9", r"caf\xe9"),
        ("caf\udcc3\udca9", "café"),
        ("é\udce9 \ud800", r"é\xe9 \ud800"),
    ],
)
def test_printable_escapes_bytes_that_are_not_text(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_ffmpeg_url_has_the_absolute_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ffmpeg_url(Path("-:%d")) == f"file:{tmp_path}/-:%d"


def test_yaml_files_and_configs_preserve_the_name(folder: Path) -> None:
    content = {"a": NAME, "b": ["é", NAME], "c": {"d": NAME, "e": 1}}
    write_yaml(folder / "a.yaml", content)
    assert read_yaml(folder / "a.yaml") == content
    settings = Settings(folder / "x.mp4", (NAME, "é"))
    save_config(settings, folder / "b.yaml")
    assert load_config(Settings, folder / "b.yaml") == settings


def test_a_manifest_preserves_the_name(folder: Path) -> None:
    stage = Stage("extract", Settings(folder))
    output = folder / NAME
    output.touch()
    Manifest.load(folder / "manifest.json").complete(stage, [output])
    assert Manifest.load(folder / "manifest.json").reason_to_run(stage) is None


def test_json_is_utf8(folder: Path) -> None:
    write_json(folder / "a.json", {"é": NAME})
    assert (folder / "a.json").read_text(encoding="utf-8") == '{\n  "é": "caf\\udce9 1:2"\n}\n'


def test_images_are_written_and_read(folder: Path) -> None:
    image = endoscopic_frames(1)[0]
    write_image(folder / "a.png", image)
    np.testing.assert_array_equal(read_pixels(folder / "a.png"), image)
    write_image(folder / "deep.png", image[..., 0].astype(np.uint16) * 200)
    deep = read_pixels(folder / "deep.png", cv2.IMREAD_UNCHANGED)
    assert deep is not None and deep.dtype == np.uint16
    (folder / "text.png").write_bytes(b"words")
    (folder / "empty.png").touch()
    assert [read_pixels(folder / name) for name in ("text.png", "empty.png", "missing.png", ".")] == [None] * 4


def test_no_code_opens_files_with_opencv() -> None:
    """cv2.imread and similar functions crash on a name that is not UTF-8."""
    packages = ("pipeline", "descriptor", "sfm", "data_prep")
    sources = [*ROOT.glob("*.py"), *(file for package in packages for file in (ROOT / package).rglob("*.py"))]
    calls = re.compile(r"cv2\.(imread|imreadmulti|imwrite|VideoCapture|VideoWriter|FileStorage)\(")
    found = {str(file.relative_to(ROOT)) for file in sources if calls.search(file.read_text(encoding="utf-8"))}
    assert not found


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("fails", [False, True])
def test_stdout_has_the_exact_name_and_stderr_an_escaped_one(folder: Path, locale: dict[str, str], fails: bool) -> None:
    arguments = ["--file", "é " + NAME, *(["--fail"] if fails else [])]
    result = run_command([sys.executable, "-c", COMMAND, *arguments], folder, locale)
    name = os.fsencode("é " + NAME)
    assert result.returncode == (1 if fails else 0), result.stderr
    encodes_letters = "PYTHONIOENCODING" not in locale
    if encodes_letters:
        assert result.stdout == b"first " + name + b"\n" + (b"" if fails else name + b"\n")
    shown = result.stderr.decode("utf-8").splitlines()
    assert len(shown) == (2 if fails else 1)
    assert all(r"caf\xe9 1:2" in line for line in shown)


@pytest.mark.parametrize("locale", LOCALES[:3])
def test_a_video_is_extracted_in_any_locale(folder: Path, locale: dict[str, str]) -> None:
    video = write_video(folder / "plain.mp4", endoscopic_frames(12)).rename(folder / f"{NAME}.mp4")
    result = run_command([sys.executable, str(EXTRACT), video.name], folder, locale)
    assert result.returncode == 0, result.stderr
    lines = [Path(os.fsdecode(line)) for line in result.stdout.splitlines()]
    assert lines[0].parent == Path("sequences") / NAME and all((folder / line).exists() for line in lines)


def test_a_video_is_reconstructed_evaluated_and_viewed(folder: Path) -> None:
    phantom.run(PhantomConfig(output=folder / "ph", frames=24, size=(320, 256), fps=15.0, seed=2))
    video = shutil.copy(folder / "ph" / "video.mp4", folder / f"{NAME}.mp4")
    calibration = folder / "ph" / "calibration.yaml"
    config = configure(
        ReconstructConfig, video, folder / "run", calibration=calibration, cache_root=folder / "cache", **FAST
    )
    reconstruct(config)
    paths = ReconstructionPaths(folder / "run")
    assert len(read_training_data(paths.root).frame_index) >= 22
    assert paths.page.is_file() and paths.overlay.is_file()
    evaluate.run(EvaluateConfig(paths.root, truth=folder / "ph"))
    evaluate.run(EvaluateConfig(paths.root, against=paths.dense))
    assert view.run(ViewConfig(paths.root, render=folder / "view.png")) == folder / "view.png"


def test_a_descriptor_is_trained_and_tested(folder: Path) -> None:
    write_plane(folder / "data" / "1" / "plane", frames=8)
    where = {"cache_root": folder / "cache", "log_root": folder / "run", "device": "cpu", "record_path": True}
    network = {"image_downsampling": 4.0, "network_downsampling": 32, "adjacent_range": (1, 5), "num_workers": 0}
    small = {"batch_size": 1, "group_frames": 2, "sampling_size": 64, "feature_length": 32, "filter_growth_rate": 4}
    settings = TrainConfig(folder / "data", num_epoch=1, num_iter=1, **where, **network, **small)  # type: ignore[arg-type]
    best, last = train(settings)
    assert load_config(TrainConfig, folder / "run" / "train.yaml").log_root == settings.log_root and last.is_file()
    assert list((folder / "run" / "tensorboard").glob("events.*"))
    where |= {"log_root": folder / "test", "trained_model_path": best}
    outputs = measure(TestConfig(folder / "data", pairs_per_distance=2, baselines=(), reference_floor=False, **where))  # type: ignore[arg-type]
    assert all(output.is_file() for output in outputs)


def run_command(command: list[str], folder: Path, locale: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    return subprocess.run(command, cwd=folder, env=environment | locale, capture_output=True, timeout=120, check=False)
