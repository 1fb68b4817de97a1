"""What all benchmarks print about their runs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.measurement import Cost, keep_all_note, median_cost, print_machine, run_command, timed, weights_note


def burn_cpu(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_is_measured_beside_wall_time() -> None:
    with timed() as cost:
        burn_cpu(0.2)
        time.sleep(0.3)
    assert cost.wall_s >= 0.5
    assert 0.2 <= cost.cpu_s < cost.wall_s


def test_the_cpu_time_of_children_is_included() -> None:
    script = "import time\nwhile time.process_time() < 0.5: pass"
    with timed() as cost:
        subprocess.run([sys.executable, "-c", script], check=True)
    assert cost.cpu_s >= 0.5


def test_the_median_cost_takes_wall_and_cpu_time_separately() -> None:
    assert median_cost([Cost(1, 30), Cost(3, 10), Cost(2, 20)]) == Cost(2, 20)


def test_machine_and_sizes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_machine("640x512", "60 frames")
    line = capsys.readouterr().out
    assert "cores, load" in line and line.endswith(", 640x512, 60 frames\n")


def test_keep_all_is_noted_only_if_it_kept_a_frame() -> None:
    assert keep_all_note(0) == ""
    assert keep_all_note(7) == "--keep_all (7 flagged frames)"


@pytest.mark.parametrize(("frames", "note"), [(39, ", more than 39"), (381, "")])
def test_a_row_notes_weights_trained_on_more_frames_than_it_has(frames: int, note: str, tmp_path: Path) -> None:
    assert weights_note(tmp_path / "last.pt", frames, 381) == f"weights trained on 381 frames{note}"


def test_weights_of_a_reconstruction_were_trained_on_its_frames(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "sequence.yaml").write_text("frames:\n- {index: 0}\n- {index: 1}\n- {index: 2}\n")
    note = weights_note(tmp_path / "training" / "last.pt", 2)
    assert note == "weights trained on 3 frames, more than 2"


def test_weights_of_unknown_origin_are_noted_as_such(tmp_path: Path) -> None:
    assert weights_note(tmp_path / "last.pt", 2) == "weights trained on an unknown number of frames"


def test_relative_paths_of_a_command_are_those_of_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "script.py").write_text("import sys\nprint(open(sys.argv[1]).read())")
    (tmp_path / "input.txt").write_text("found")
    monkeypatch.chdir(tmp_path)
    run_command(str(tmp_path / "script.py"), "input.txt")
    assert capfd.readouterr().out == "found\n"


def test_a_failed_command_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError):
        run_command(str(tmp_path / "script.py"), is_quiet=True)
