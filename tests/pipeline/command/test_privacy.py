"""No output file identifies the source of the video, the machine or the patient."""

import getpass
import os
import socket
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.data.phantom_files import PhantomPaths
from pipeline.data.sequence import Sequence
from pipeline.paths import BootstrapPaths, RunPaths
from pipeline.reconstruction_paths import ReconstructionPaths
from repository import ROOT
from traces import find_traces

FOLDER, NAME, CALIBRATION = "Mustermann_Erika_1956", "Koloskopie_Erika", "Optik_von_Mustermann"
USER, HOST = "erikas-doctor", "endoscopy-suite-3"
GENERIC = {"root", "user", "admin", "runner", "ubuntu", "localhost", "nobody", "docker", "build"}
WORDS = [FOLDER, NAME, CALIBRATION, USER, HOST, "Running on machine", "Mustermann", "Koloskopie"]
WORDS += [word for word in (getpass.getuser(), socket.gethostname()) if len(word) >= 4 and word not in GENERIC]

# On Linux a process can have its own host name, as root or in its own user namespace.
_IN_ITS_OWN_HOST = f"""
import ctypes, runpy, socket, sys
new_uts, new_user = 0x04000000, 0x10000000
for flags in (new_uts, new_uts | new_user) if sys.platform == "linux" else ():
    if ctypes.CDLL(None).unshare(flags) == 0:
        socket.sethostname({HOST!r})
        break
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def study(video: PhantomPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A folder, named after a patient, with the video and its calibration."""
    folder = tmp_path_factory.mktemp("studies") / FOLDER
    folder.mkdir()
    (folder / f"{NAME}.mp4").write_bytes(video.video.read_bytes())
    (folder / f"{CALIBRATION}.yaml").write_bytes(video.calibration.read_bytes())
    return folder


def run(script: str, *arguments: object, folder: Path) -> None:
    """Run a command with the home folder, user name and host name of a doctor."""
    command = [sys.executable, "-c", _IN_ITS_OWN_HOST, str(ROOT / script), *map(str, arguments)]
    home = folder / USER
    home.mkdir(exist_ok=True)
    environment = os.environ | {"HOME": str(home), "USER": USER, "LOGNAME": USER, "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def reconstructed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> ReconstructionPaths:
    """A complete run on the uncalibrated video, passed by its absolute path."""
    output = tmp_path_factory.mktemp("runs") / "run"
    small = ("--references", 4, "--points", 400)
    run("reconstruct.py", study / f"{NAME}.mp4", "--output", output, "--preset", "fast", *small, folder=study)
    return ReconstructionPaths(output)


def test_no_file_of_a_reconstruction_names_the_video_the_user_or_the_machine(
    reconstructed: ReconstructionPaths,
) -> None:
    assert find_traces(reconstructed.root, WORDS) == []
    (sequence,) = RunPaths(reconstructed.extracted).sequences()
    assert "Global bundle adjustment" in BootstrapPaths.of(sequence).log.read_text()


def test_the_title_of_the_report_is_the_hash_unless_a_name_is_given(
    reconstructed: ReconstructionPaths, study: Path
) -> None:
    digest = Sequence.load(reconstructed.sequence.sequence).source.sha256[:8]
    assert f"<title>Reconstruction: {digest}, frames 0 to 23</title>" in reconstructed.page.read_text()
    small = ("--references", 4, "--points", 400)
    output = ("--output", reconstructed.root, "--preset", "fast", *small)
    run("reconstruct.py", f"{NAME}.mp4", *output, "--name", "Case 7 <$x$>", folder=study)
    assert "<h1>Reconstruction: Case 7 &lt;$x$&gt;, frames 0 to 23</h1>" in reconstructed.page.read_text()


def test_no_file_of_calibrated_sequences_and_their_models_names_the_video_the_user_or_the_machine(
    study: Path, tmp_path: Path
) -> None:
    calibration = ("--calibration", f"{CALIBRATION}.yaml")
    run("data_prep/extract.py", f"{NAME}.mp4", "--output", tmp_path / "out", *calibration, folder=study)
    (sequence,) = RunPaths(tmp_path / "out").sequences()
    run("data_prep/bootstrap.py", sequence.root, folder=study)
    run("data_prep/convert.py", sequence.root, "--to", "nerfstudio", "--output", tmp_path / "out/nerf", folder=study)
    assert find_traces(tmp_path / "out", WORDS) == []


def test_paths_are_recorded_on_request(study: Path, tmp_path: Path) -> None:
    video_file, calibration = study / f"{NAME}.mp4", study / f"{CALIBRATION}.yaml"
    wanted = ("--output", tmp_path / "out", "--calibration", calibration, "--record_path", "--until", "extract")
    run("reconstruct.py", video_file, *wanted, folder=study)
    extracted = RunPaths(ReconstructionPaths(tmp_path / "out").extracted)
    (sequence,) = extracted.sequences()
    assert Sequence.load(sequence.sequence).source.path == str(video_file)
    assert Sequence.load(sequence.sequence).calibration.file == calibration.name
    assert str(calibration) in extracted.config("extract").read_text()


def _png(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", NAME, zip=True)
    Image.new("L", (8, 8)).save(path.with_suffix(".png"), pnginfo=info)


def _jpeg(path: Path) -> None:
    exif = Image.Exif()
    exif[0x9C9B] = NAME.encode("utf-16-le")
    Image.new("L", (8, 8)).save(path.with_suffix(".jpg"), exif=exif)


def _database(path: Path) -> None:
    with sqlite3.connect(path.with_suffix(".db")) as database:
        database.execute("create table images (name text)")
        database.execute("insert into images values (?)", ["x" * 4000 + NAME])
    database.close()


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("names.npy", np.array([NAME.lower()]).astype("S").tobytes())


def _file_name(path: Path) -> None:
    path.with_name(f"{NAME}.txt").touch()


def _link(path: Path) -> None:
    path.symlink_to(f"/home/{NAME}/video.mp4")


@pytest.mark.parametrize("write", [_png, _jpeg, _database, _archive, _file_name, _link])
def test_the_search_finds_a_name_in_every_kind_of_file(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "out" / "inside").mkdir(parents=True)
    assert find_traces(tmp_path, [NAME]) == []
    write(tmp_path / "out" / "inside" / "file")
    assert find_traces(tmp_path, [NAME])
