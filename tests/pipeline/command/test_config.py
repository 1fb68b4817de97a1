"""A dataclass defines config, YAML file and command line. Errors name the invalid key or flag and the nearest one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import tyro

from pipeline.command.config import from_mapping, load_config, parse_command_line, save_config, to_mapping
from pipeline.errors import LumenError


@dataclass(frozen=True)
class Light:
    """The light at the camera."""

    power: float = 1.0
    """Relative power."""
    steps: int = 2
    """Number of steps."""


@dataclass
class Config:
    """Process a video."""

    video: tyro.conf.Positional[Path]
    """The video."""
    output: Path | None = None
    """Where to write."""
    adjacent_range: tuple[int, int] = (1, 30)
    """Smallest and largest distance."""
    rate: float = 1e-3
    """The rate."""
    anatomy: Literal["colon", "sinus"] = "colon"
    """What to render."""
    keep_all: bool = False
    """Keep every frame."""
    light: Light = field(default_factory=Light)
    """The light."""
    extra_light: Light | None = None
    """A second light."""
    labels: list[str] = field(default_factory=list)
    """Names."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights by name."""

    def __post_init__(self) -> None:
        if self.rate < 0 or not self.video.suffix:
            raise LumenError(f"rate is {self.rate}: choose 0 or more")


@dataclass
class Sequence:
    """A file with a list of entries."""

    lights: list[Light]


def parse(*arguments: str) -> Config:
    return parse_command_line(Config, arguments, "python make.py")


def preset(folder: Path, text: str) -> str:
    path = folder / "preset with space.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_and_a_positional_argument() -> None:
    assert parse("clip.mp4") == Config(video=Path("clip.mp4"))


def test_flags_override_the_config_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    file = preset(tmp_path, "rate: 0.5\nanatomy: sinus\nadjacent_range: [2, 3]\nlight: {steps: 7}\n")
    config = parse("clip.mp4", "--config", file, "--rate", "0.25", "--light.power", "4")
    assert config == Config(
        video=Path("clip.mp4"), rate=0.25, anatomy="sinus", adjacent_range=(2, 3), light=Light(power=4.0, steps=7)
    )


def test_a_config_file_may_set_the_required_argument_and_be_passed_with_an_equals_sign(tmp_path: Path) -> None:
    file = preset(tmp_path, "video: a.mp4")
    assert parse(f"--config={file}").video == Path("a.mp4")
    assert parse("b.mp4", f"--config={file}").video == Path("b.mp4")


def test_an_empty_config_file_changes_nothing(tmp_path: Path) -> None:
    assert parse("clip.mp4", "--config", preset(tmp_path, "# nothing\n")) == parse("clip.mp4")


@pytest.mark.parametrize("arguments", [["--adjacent_range", "1", "50"], ["--adjacent-range", "1", "50"]])
def test_flags_of_two_numbers_with_underscores_or_dashes(arguments: list[str]) -> None:
    assert parse("clip.mp4", *arguments).adjacent_range == (1, 50)


def test_flags_of_each_type() -> None:
    config = parse("a ü.mp4", "--keep_all", "--rate", "1e-4", "--output", "x y", "--labels", "a", "b")
    assert config.keep_all and config.rate == 1e-4 and config.output == Path("x y")
    assert config.labels == ["a", "b"] and config.video == Path("a ü.mp4")
    assert not parse("clip.mp4", "--no_keep_all").keep_all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip.mp4", "--adjcent_range", "1", "50"], "--adjacent_range"),
        (["clip.mp4", "--light.powr", "1"], "--light.power"),
        (["clip.mp4", "--anatomy", "colan"], "'sinus'"),
        (["clip.mp4", "--rate", "fast"], "could not convert string to float: 'fast'"),
        (["clip.mp4", "--adjacent_range", "1"], "--adjacent_range"),
        ([], "The video. (required)"),
    ],
)
def test_an_invalid_flag_shows_the_nearest_valid_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_argument_is_reported_with_a_config_file_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--config", preset(tmp_path, "rate: 0.5"))
    assert stopped.value.code == 2
    assert "The video. (required)" in capsys.readouterr().err


def test_help_contains_every_field_docstring_and_the_config_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for text in ("Process a video.", "Smallest and largest distance.", "Relative power.", "--config FILE.yaml"):
        assert text in shown


@pytest.mark.parametrize("arguments", [["--config"], ["--config="], ["--config", "a.yaml", "--config", "b.yaml"]])
def test_config_needs_one_file(arguments: list[str]) -> None:
    with pytest.raises(LumenError, match="--config"):
        parse("clip.mp4", *arguments)


def test_a_missing_config_file_is_reported() -> None:
    with pytest.raises(LumenError, match="cannot read nowhere.yaml: no such file or folder"):
        parse("clip.mp4", "--config", "nowhere.yaml")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"raet": 1}, "x.yaml: unknown key 'raet'; did you mean 'rate'?"),
        ({"qqq": 1}, "x.yaml: unknown key 'qqq'; the keys are video, output,"),
        ({3: 1}, "x.yaml: unknown key 3; the keys are"),
        ({"rate": "fast"}, "x.yaml: rate: expected float, got 'fast'"),
        ({"rate": True}, "x.yaml: rate: expected float, got True"),
        ({"keep_all": 1}, "x.yaml: keep_all: expected bool, got 1"),
        ({"keep_all": "true"}, "x.yaml: keep_all: expected bool, got 'true'"),
        ({"output": 5}, "x.yaml: output: expected Path, got 5"),
        ({"adjacent_range": [1, "b"]}, "x.yaml: adjacent_range[1]: expected int, got [1, 'b']"),
        ({"adjacent_range": [1, 2, 3]}, "x.yaml: adjacent_range: expected list of length 2, got [1, 2, 3]"),
        ({"adjacent_range": 1.5}, "x.yaml: adjacent_range: expected list, got 1.5"),
        ({"anatomy": "colan"}, "x.yaml: anatomy: 'colan' is no choice; did you mean 'colon'?"),
        ({"anatomy": "knee"}, "x.yaml: anatomy: 'knee' is no choice; the choices are colon, sinus"),
        ({"light": 3}, "x.yaml: light: expected keys with values, got 3"),
        ({"light": {"powr": 3}}, "x.yaml: light: unknown key 'powr'; did you mean 'power'?"),
        ({"light": {"steps": 1.5}}, "x.yaml: light: steps: expected int, got 1.5"),
        ({"extra_light": {"powr": 3}}, "x.yaml: extra_light: unknown key 'powr'; did you mean 'power'?"),
        ({"labels": "abc"}, "x.yaml: labels: expected list, got 'abc'"),
        ({"weights": {"a": "b"}}, "x.yaml: weights[...]: expected float, got {'a': 'b'}"),
        ({"rate": -1.0}, "rate is -1.0: choose 0 or more"),
        (["rate"], "x.yaml: expected keys with values, found list"),
    ],
)
def test_an_invalid_key_or_value_is_named(mapping: Any, message: str) -> None:
    if isinstance(mapping, dict):
        mapping = {"video": "clip.mp4", **mapping}
    with pytest.raises(LumenError) as raised:
        from_mapping(Config, mapping, "x.yaml")
    assert str(raised.value).startswith(message)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(LumenError, match="^x.yaml: the key 'video' is missing$"):
        from_mapping(Config, {}, "x.yaml")


def test_entries_of_a_list_are_checked_like_the_rest() -> None:
    assert from_mapping(Sequence, {"lights": [{"power": 2}, {}]}, "x") == Sequence([Light(2.0), Light()])
    with pytest.raises(LumenError, match=r"^x: lights\[1\]: unknown key 'powr'; did you mean 'power'\?$"):
        from_mapping(Sequence, {"lights": [{}, {"powr": 2}]}, "x")


def test_flags_and_config_file_are_checked_together(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="rate is -2.0"):
        parse("clip.mp4", "--config", preset(tmp_path, "rate: 0.5"), "--rate", "-2")
    with pytest.raises(LumenError, match="rate is -1.0"):
        parse("clip.mp4", "--config", preset(tmp_path, "rate: -1.0"))


def test_numbers_in_exponential_notation(tmp_path: Path) -> None:
    file = preset(tmp_path, "video: a.mp4\nrate: 1e-4\nweights: {a: 2e-3}\n")
    config = load_config(Config, Path(file))
    assert config.rate == 1e-4 and config.weights == {"a": 2e-3}


def test_quoted_text_that_looks_like_a_number_or_null_stays_text(tmp_path: Path) -> None:
    file = preset(tmp_path, "video: a.mp4\nlabels: ['null', '12', '1e-4']\noutput: 'null'\n")
    config = load_config(Config, Path(file))
    assert config.labels == ["null", "12", "1e-4"] and config.output == Path("null")


@pytest.mark.parametrize(
    "config",
    [
        Config(video=Path("a.mp4")),
        Config(
            Path("ü/a b.mp4"), Path("1e-4"), (5, 6), 1e-12, "sinus", True, Light(0.1, 3), Light(), ["1"], {"a": 0.5}
        ),
        Config(video=Path("a.mp4"), rate=float("inf")),
    ],
)
def test_yaml_round_trip(tmp_path: Path, config: Config) -> None:
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Config, tmp_path / "config.yaml") == config
    assert from_mapping(Config, to_mapping(config), "memory") == config


def test_a_tilde_means_the_home_folder_in_flags_and_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/clip.mp4", "--output=~/x") == Config(video=tmp_path / "clip.mp4", output=tmp_path / "x")
    file = preset(tmp_path, "video: ~/clip.mp4\noutput: ~/x")
    assert parse("--config", file) == Config(video=tmp_path / "clip.mp4", output=tmp_path / "x")
    assert parse("--config=~/preset with space.yaml").output == tmp_path / "x"
    assert load_config(Config, Path(file)).output == tmp_path / "x"
    assert parse("~no_such_user.mp4").video == Path("~no_such_user.mp4")


def test_an_unknown_home_folder_is_a_known_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: [][0])
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(LumenError, match=r"~/clip.mp4: it is not known where the home folder is"):
        parse("~/clip.mp4")


@pytest.mark.parametrize("arguments", [["clip.mp4", "--output", ""], ["clip.mp4", "--output="], [""]])
def test_an_empty_argument_is_rejected(arguments: list[str]) -> None:
    with pytest.raises(LumenError, match="is empty: is a shell variable unset"):
        parse(*arguments)
