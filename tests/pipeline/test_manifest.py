"""Current stages are skipped; changed stages and all stages after them are redone, and the log gives the reason."""

import json
import logging
import math
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from child_process import stop_script_when_ready
from pipeline.errors import LumenError
from pipeline.manifest import Manifest, Stage, fingerprint_files, fingerprint_path
from pipeline.outputs.files import partial_path, write_bytes


@dataclass
class Config:
    stride: int = 1
    adjacent_range: tuple[int, int] = (1, 30)
    limit: float = math.inf
    video: Path = Path("a b.mp4")


class Run:
    """Three stages, each of which reads the output of the previous one; records which stages ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.video = folder / "video.mp4"
        self.ran: list[str] = []
        self.configs = {"extract": Config(), "match": Config(), "map": Config()}
        self.versions = {"extract": 1, "match": 1, "map": 1}
        write_bytes(self.video, b"video")

    def stages(self) -> list[Stage]:
        inputs = {"video": fingerprint_path(self.video)}
        after = {"extract": [], "match": ["extract"], "map": ["match"]}
        return [
            Stage(name, self.configs[name], inputs if name == "extract" else {}, after[name], self.versions[name])
            for name in after
        ]

    def output(self, name: str) -> Path:
        return self.folder / "run" / name / "output"

    def go(self, stop_at: str | None = None) -> list[str]:
        """Load the manifest, as a new process does, run the stages that are not current, and return their names."""
        self.ran = []
        manifest = Manifest.load(self.manifest)
        for stage in self.stages():
            manifest.run(stage, lambda name=stage.name: self.write(name, stop_at))
        return self.ran

    def write(self, name: str, stop_at: str | None) -> list[Path]:
        self.ran.append(name)
        if name == stop_at:
            raise KeyboardInterrupt
        write_bytes(self.output(name), b"made")
        return [self.output(name)]

    @property
    def manifest(self) -> Path:
        return self.folder / "run" / "manifest.json"


ALL = ["extract", "match", "map"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    assert run.go() == ALL
    return run


def reason(run: Run, name: str) -> str | None:
    manifest = Manifest.load(run.manifest)
    return next(manifest.reason_to_run(stage) for stage in run.stages() if stage.name == name)


def test_current_stages_are_skipped_and_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.manifest"):
        assert run.go() == []
    assert caplog.messages == [f"{name}: current, skipped" for name in ALL]


def test_run_returns_the_outputs_of_a_skipped_stage(run: Run) -> None:
    manifest = Manifest.load(run.manifest)
    assert manifest.run(run.stages()[0], lambda: pytest.fail("it is current")) == [run.output("extract")]


def test_a_changed_config_redoes_the_stage_and_all_later_stages(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.configs["match"] = Config(stride=2)
    with caplog.at_level(logging.INFO, logger="pipeline.manifest"):
        assert run.go() == ["match", "map"]
    assert caplog.messages == ["extract: current, skipped", "match: stride 1 → 2", "map: match was redone"]
    assert run.go() == []


def test_a_changed_tuple_is_detected(run: Run) -> None:
    run.configs["map"] = Config(adjacent_range=(1, 50))
    assert reason(run, "map") == "adjacent_range [1, 30] → [1, 50]"


def test_a_changed_input_redoes_the_stage(run: Run) -> None:
    write_bytes(run.video, b"another video")
    assert reason(run, "extract") == "input video changed"
    assert run.go() == ALL


def test_added_and_removed_inputs_are_detected(run: Run) -> None:
    manifest = Manifest.load(run.manifest)
    extract = run.stages()[0]
    more = Stage("extract", Config(), {**extract.inputs, "calibration": "0"})
    assert manifest.reason_to_run(more) == "input calibration added"
    assert manifest.reason_to_run(Stage("extract", Config())) == "input video removed"
    assert manifest.reason_to_run(Stage("match", Config())) == "no longer comes after extract"
    assert manifest.reason_to_run(Stage("extract", Config(), extract.inputs, ["map"])) == "comes after map"


def test_a_missing_output_redoes_the_stage_and_all_later_stages(run: Run) -> None:
    run.output("extract").unlink()
    assert reason(run, "extract") == "extract/output is missing"
    assert run.go() == ALL
    assert run.go() == []


def test_a_stage_stopped_while_being_redone_still_redoes_later_stages(run: Run) -> None:
    run.output("extract").unlink()
    with pytest.raises(KeyboardInterrupt):
        run.go(stop_at="extract")
    assert run.ran == ["extract"]
    assert run.go() == ALL
    assert run.go() == []


def test_a_new_format_version_redoes_the_stage(run: Run) -> None:
    run.versions["match"] = 2
    assert reason(run, "match") == "format version 1 → 2"
    assert run.go() == ["match", "map"]


def test_a_stage_without_its_input_is_rejected(tmp_path: Path) -> None:
    manifest = Manifest.load(tmp_path / "manifest.json")
    with pytest.raises(LumenError, match="map needs match first"):
        manifest.reason_to_run(Stage("map", after=["match"]))


def test_only_a_failed_stage_and_later_stages_run_again(run: Run) -> None:
    run.configs["match"] = Config(stride=3)
    with pytest.raises(KeyboardInterrupt):
        run.go(stop_at="match")
    assert reason(run, "match") == "not run yet"
    assert run.go() == ["match", "map"]


def test_a_config_with_infinity_and_nan_stays_current(tmp_path: Path) -> None:
    stage = Stage("match", {"limit": math.inf, "unknown": math.nan})
    Manifest.load(tmp_path / "manifest.json").complete(stage, [])
    assert Manifest.load(tmp_path / "manifest.json").reason_to_run(stage) is None


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    Manifest.load(tmp_path / "manifest.json").complete(Stage("match", {"a": {"x": 1, "y": 2}}), [])
    manifest = Manifest.load(tmp_path / "manifest.json")
    assert manifest.reason_to_run(Stage("match", {"a": {"y": 2, "x": 1}})) is None


def test_the_same_run_writes_the_same_manifest(run: Run) -> None:
    before = run.manifest.read_bytes()
    run.output("extract").unlink()
    run.go()
    assert run.manifest.read_bytes() == before


def test_a_kill_during_a_stage_redoes_only_that_stage(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from pipeline.outputs.files import atomic_write, write_bytes
from pipeline.manifest import Manifest, Stage

root = Path("run").absolute()

def first():
    write_bytes(root / "first", b"made by the killed process")
    return [root / "first"]

def second():
    with atomic_write(root / "second") as partial, partial.open("wb") as stream:
        stream.write(b"half")
        stream.flush()
        print("ready")
        time.sleep(60)
    return [root / "second"]

manifest = Manifest.load(root / "manifest.json")
manifest.run(Stage("first"), first)
manifest.run(Stage("second", after=["first"]), second)
"""
    status, _ = stop_script_when_ready(script, tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    root = tmp_path / "run"
    manifest = Manifest.load(root / "manifest.json")
    assert not (root / "second").exists()

    def second() -> list[Path]:
        write_bytes(root / "second", b"whole")
        return [root / "second"]

    assert manifest.run(Stage("first"), lambda: pytest.fail("it is current")) == [root / "first"]
    assert manifest.run(Stage("second", after=["first"]), second) == [root / "second"]
    assert (root / "second").read_bytes() == b"whole"
    assert {path.name for path in root.iterdir()} == {"manifest.json", "first", "second"}


def test_the_manifest_is_never_partially_written(tmp_path: Path) -> None:
    script = """
from pathlib import Path
from pipeline.manifest import Manifest, Stage
manifest = Manifest.load(Path("manifest.json"))
for number in range(100_000):
    manifest.complete(Stage(f"stage {number % 500}", {"text": "x" * 2000, "number": number}), [])
    if number == 0:
        print("ready")
"""
    for round_number in range(4):
        stop_script_when_ready(script, tmp_path, signal.SIGKILL, delay_s=0.05 + 0.013 * round_number)
        manifest = Manifest.load(tmp_path / "manifest.json")
        assert manifest.reason_to_run(Stage("stage 0", {"text": "x" * 2000, "number": 0})) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not a manifest"),
        (lambda text: "", "is not a manifest"),
        (lambda text: "[]", "is not a manifest"),
        (lambda text: "\0" * 100, "is not a manifest"),
        (lambda text: text.replace('"outputs"', '"output"'), "is not a manifest"),
        (lambda text: text.replace('"format_version": 3', '"format_version": 999', 1), "has format 999"),
    ],
)
def test_a_damaged_manifest_is_reported(run: Run, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    run.manifest.write_text(damage(run.manifest.read_text()))
    with pytest.raises(LumenError, match=f"manifest.json {message}.*: move the folder away"):
        Manifest.load(run.manifest)


def test_the_manifest_records_the_origin_of_each_output(run: Run) -> None:
    record = json.loads(run.manifest.read_text())["stages"]["extract"]
    assert record["config"]["adjacent_range"] == [1, 30] and record["config"]["video"] == "a b.mp4"
    assert record["inputs"] == {"video": fingerprint_path(run.video)}
    assert record["outputs"] == ["extract/output"]


def test_a_fingerprint_depends_on_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_bytes(folder / "a", b"1")
    write_bytes(folder / "sub" / "b ü", b"2")
    before = fingerprint_path(folder)
    assert fingerprint_path(folder) == before == fingerprint_files([folder / "a", folder / "sub" / "b ü"], folder)
    partial_path(folder / "a").write_text("left behind by a kill")
    assert fingerprint_path(folder) == before
    write_bytes(folder / "sub" / "b ü", b"3")
    changed = fingerprint_path(folder)
    (folder / "a").rename(folder / "c")
    assert len({before, changed, fingerprint_path(folder)}) == 3


def test_the_temporary_name_of_a_folder_does_not_change_its_fingerprint(tmp_path: Path) -> None:
    write_bytes(tmp_path / ".partial.in" / "a", b"1")
    write_bytes(tmp_path / "in" / "a", b"1")
    assert fingerprint_path(tmp_path / ".partial.in") == fingerprint_path(tmp_path / "in")


def test_a_file_whose_name_is_not_utf8_has_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9").write_text("1")
    assert len(fingerprint_path(tmp_path)) == 64


def test_a_missing_input_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LumenError, match="cannot read .*nowhere.mp4: no such file or folder"):
        fingerprint_path(tmp_path / "nowhere.mp4")
