"""TensorBoard event files: their content, and file names without the host name."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from descriptor.training.log import EventFile
from pipeline.errors import LumenError
from textured_images import textured_image
from traces import MACHINE, files_that_say, name_the_machine


def test_tensorboard_reads_entries_and_drops_those_after_the_resumed_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_the_machine(monkeypatch)
    first = EventFile(tmp_path, 0)
    for step in (1, 2, 3):
        first.add_scalar("loss", 0.5 * step, step)
    first.add_image("matches", textured_image(20, 30, 0), 3)
    first.close()
    second = EventFile(tmp_path, 2)
    second.add_scalar("loss", 7.0, 2)
    second.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(entry.step, entry.value) for entry in events.Scalars("loss")] == [(1, 0.5), (2, 7.0)]
    assert len(list(tmp_path.iterdir())) == 2
    assert not files_that_say(tmp_path, MACHINE)


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LumenError, match="cannot write"):
        EventFile(tmp_path / "file", 0)
