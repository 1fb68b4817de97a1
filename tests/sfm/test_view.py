"""A viewer without a display ends at once, in one line that says what to do instead."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colmap_models import write_known_poses
from pipeline.errors import LumenError
from sfm import display, view
from sfm.view import ViewConfig

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are looked for on Linux alone")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_known_poses(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def silent_display() -> Iterator[str]:
    """A display on a port that takes connections and says nothing, as a hung server does."""
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
def test_a_display_that_is_not_there_is_named_with_the_flag_that_needs_none(
    model: Path, monkeypatch: pytest.MonkeyPatch, displays: dict[str, str]
) -> None:
    set_displays(monkeypatch, **displays)
    monkeypatch.setattr(view.o3d.visualization, "Visualizer", lambda: pytest.fail("Open3D was opened"))
    with pytest.raises(LumenError, match="write a picture with --render cloud.png") as refused:
        view.run(ViewConfig(model))
    assert all(f"{name}={value}" in str(refused.value) for name, value in displays.items() if value)


def test_a_display_that_does_not_answer_is_not_waited_for(
    model: Path, monkeypatch: pytest.MonkeyPatch, silent_display: str
) -> None:
    set_displays(monkeypatch, DISPLAY=silent_display)
    monkeypatch.setattr(display, "_PATIENCE_S", 0.2)
    with pytest.raises(LumenError, match=f"no display answers at DISPLAY={silent_display}"):
        view.run(ViewConfig(model))


def test_a_picture_needs_no_display(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_displays(monkeypatch, DISPLAY=":99")
    assert view.run(ViewConfig(model, render=tmp_path / "cloud.png", size=(320, 240))) == tmp_path / "cloud.png"


def test_a_display_without_opengl_is_said_to_have_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoWindow:
        def create_window(self, **_: object) -> bool:
            return False

    monkeypatch.setattr(view, "require_display", lambda _: None)
    monkeypatch.setattr(view.o3d.visualization, "Visualizer", NoWindow)
    with pytest.raises(LumenError, match="Open3D cannot open a window .* --render cloud.png"):
        view.run(ViewConfig(model))


def test_one_server_that_answers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    set_displays(monkeypatch, DISPLAY=":99", WAYLAND_DISPLAY="wayland-99")
    monkeypatch.setattr(display, "_answers", lambda name: name == "DISPLAY")
    display.require_display("nothing")


def test_the_command_ends_with_one_line(model: Path, tmp_path: Path) -> None:
    environment = {"DISPLAY": ":99", "PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "sfm.view", str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: no display answers at DISPLAY=:99: write a picture with --render cloud.png"
    ]
