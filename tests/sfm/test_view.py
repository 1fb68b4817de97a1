"""The viewer without a display: it exits at once with a one-line error that names the alternative."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colmap_models import write_known_poses
from pipeline.errors import LumenError
from sfm import view
from sfm.view import ViewConfig

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are checked on Linux only")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_known_poses(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def silent_display() -> Iterator[str]:
    """A display on a port that accepts connections and never responds, as a hung server does."""
    for number in range(900, 1000):
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", 6000 + number))
            except OSError:
                continue
            server.listen()
            yield f"127.0.0.1:{number}"
            return


def set_displays(monkeypatch: pytest.MonkeyPatch, **displays: str) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in displays.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "displays",
    [
        {},
        {"DISPLAY": ""},
        {"DISPLAY": ":99"},
        {"DISPLAY": "localhost:977.0"},
        {"DISPLAY": "nonsense"},
        {"WAYLAND_DISPLAY": "wayland-99"},
        {"DISPLAY": ":99", "WAYLAND_DISPLAY": "wayland-99"},
    ],
)
def test_a_missing_display_is_named_with_the_flag_that_needs_none(
    model: Path, monkeypatch: pytest.MonkeyPatch, displays: dict[str, str]
) -> None:
    set_displays(monkeypatch, **displays)
    monkeypatch.setattr(view.o3d.visualization, "Visualizer", lambda: pytest.fail("Open3D was opened"))
    with pytest.raises(LumenError, match="render an image with --render cloud.png") as refused:
        view.run(ViewConfig(model))
    assert all(f"{name}={value}" in str(refused.value) for name, value in displays.items() if value)


def test_an_unresponsive_display_times_out(model: Path, monkeypatch: pytest.MonkeyPatch, silent_display: str) -> None:
    set_displays(monkeypatch, DISPLAY=silent_display)
    monkeypatch.setattr(view, "_DISPLAY_TIMEOUT_S", 0.2)
    with pytest.raises(LumenError, match=f"no display responds at DISPLAY={silent_display}"):
        view.run(ViewConfig(model))


def test_rendering_needs_no_display(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_displays(monkeypatch, DISPLAY=":99")
    assert view.run(ViewConfig(model, render=tmp_path / "cloud.png", size=(320, 240))) == tmp_path / "cloud.png"


def test_a_display_without_opengl_is_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoWindow:
        def create_window(self, **_: object) -> bool:
            return False

    monkeypatch.setattr(view, "require_display", lambda _: None)
    monkeypatch.setattr(view.o3d.visualization, "Visualizer", NoWindow)
    with pytest.raises(LumenError, match="Open3D cannot open a window; .* --render cloud.png"):
        view.run(ViewConfig(model))


def test_one_responding_server_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    set_displays(monkeypatch, DISPLAY=":99", WAYLAND_DISPLAY="wayland-99")
    monkeypatch.setattr(view, "_responds", lambda name: name == "DISPLAY")
    view.require_display("nothing")


def test_the_command_prints_one_error_line(model: Path, tmp_path: Path) -> None:
    environment = {"DISPLAY": ":99", "PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "sfm.view", str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: no display responds at DISPLAY=:99: render an image with --render cloud.png"
    ]


@pytest.mark.parametrize("size", [(63, 480), (640, 32)])
def test_a_size_below_64_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(LumenError, match=f"--size {size[0]} {size[1]}: choose 64 or more"):
        ViewConfig(Path(), size=size)
