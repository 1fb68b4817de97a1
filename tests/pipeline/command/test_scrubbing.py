"""Scrubbed text does not name files, folders, user or machine, and stays readable."""

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pipeline.command.privacy import named_arguments, named_settings, private_strings, scrub
from repository import ROOT


@dataclass
class Inner:
    weights: Path | None = Path("Klinik/best.pt")


@dataclass
class Settings:
    video: Path = Path("/srv/Klinik/Eva.mp4")
    preset: Literal["fast", "best"] = "fast"
    patients: list[str] = field(default_factory=lambda: ["Meyer", "ID-77"])
    inner: Inner = field(default_factory=Inner)
    frames: int = 3


def test_named_settings_are_paths_and_free_texts_without_choices() -> None:
    assert list(named_settings(Settings())) == [
        *[("video", Path("/srv/Klinik/Eva.mp4")), ("patients", "Meyer"), ("patients", "ID-77")],
        ("weights", Path("Klinik/best.pt")),
    ]


def test_named_arguments_are_paths_with_the_names_of_their_flags() -> None:
    arguments = [
        "Eva.mp4",
        "--preset",
        "fast",
        "--output=/a/b",
        "--scale",
        "0.5",
        "--frames",
        "12",
        "--weights",
        "x.pt",
    ]
    assert list(named_arguments(arguments)) == [
        *[("input", Path("Eva.mp4")), ("output", Path("/a/b")), ("weights", Path("x.pt"))]
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reading /srv/Klinik/Eva.mp4", "reading <video>"),
        ("Eva_start_0 of eva.MP4; evaluation", "<video>_start_0 of <video>; evaluation"),
        ("in /srv/Klinik/other or klinik", "in <folder>/other or <folder>"),
        ("Meyer's frames of the video", "<patients>'s frames of the video"),
        (f'File "{ROOT}/pipeline/outputs/files.py", line 3', 'File "pipeline/outputs/files.py", line 3'),
    ],
)
def test_private_strings_are_replaced(text: str, expected: str) -> None:
    assert scrub(text, private_strings(named_settings(Settings()))) == expected


def test_names_in_escaped_forms_are_replaced() -> None:
    private = private_strings([("video", Path("/srv/Müller\udce9/a.mp4"))])
    for form in (str, repr, ascii):
        assert "ller" not in scrub(form(Path("/srv/Müller\udce9")), private)


def test_files_of_an_input_folder_are_private_but_those_of_an_output_are_not(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Petra_07.png").touch()
    assert scrub("Petra_07 is damaged", private_strings([("images", tmp_path)])) == "<file of images> is damaged"
    assert scrub("Petra_07 is damaged", private_strings([("output", tmp_path)])) == "Petra_07 is damaged"


def test_user_home_and_machine_are_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jdoe")
    monkeypatch.setenv("USER", "jdoe")
    monkeypatch.setattr(platform, "node", lambda: "gpu7.klinik.example")
    private = private_strings([])
    assert scrub("/home/jdoe/.cache, jdoe, gpu7 gpu7.klinik.example", private) == "<home>/.cache, <user>, <host> <host>"


def test_a_missing_working_directory_or_an_invalid_path_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    private = private_strings([("video", Path("Eva.mp4")), ("weights", Path("a\0b")), ("model", Path("x" * 5000))])
    assert scrub("Eva.mp4", private) == "<video>"
    monkeypatch.chdir(os.sep)
