"""What came of every sequence and model of a run: a table for the log, and the page that links all reports."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import explain_os_errors
from pipeline.outputs.files import write_bytes
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.run import StageName, is_reached
from sfm.map_stage import model_numbers

_COLUMNS = ("sequence", "model", "frames", "points", "result")

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:980px;padding:1.2rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.3rem .9rem;text-align:left;border-bottom:1px solid #ddd}"
    ".problem{color:#a40000}p{margin:.3rem 0;color:#444}"
)


@dataclass(frozen=True)
class Outcome:
    """What came of one model, or of a sequence without any.

    Attributes:
        sequence: name of the sequence's folder.
        model: its number; None if the sequence has no model.
        frames: in the model, of all frames of the sequence, such as "81 of 150".
        points: dense points; None before densification.
        page: its report, if there is one.
        problem: why it is not finished; None if it is.
    """

    sequence: str
    model: int | None
    frames: str
    points: int | None
    page: Path | None
    problem: str | None = None


def outcomes_of(sequence: str, paths: ReconstructionPaths, problem: str | None, until: StageName) -> list[Outcome]:
    """What came of a sequence, read from the reports of its stages.

    Args:
        sequence: its name.
        paths: of its run.
        problem: why the run of the sequence failed, if it did.
        until: the last stage that ran; what is there of later ones may be of other settings.
    """
    if problem is not None:
        return [Outcome(sequence, None, "", None, None, problem)]
    numbers = model_numbers(paths) if is_reached("map", until) else []
    if not numbers:
        return [Outcome(sequence, None, "", None, None)]
    sparse = _counts(paths.stage_report("map"))
    counts = _counts(paths.stage_report("densify")) if is_reached("densify", until) else {}
    dense = {each["number"]: each for each in counts.get("models", [])}
    found = []
    for number in numbers:
        figures = dense.get(number, {})
        page = paths.of_model(number).page if is_reached("report", until) else None
        shown = page if page is not None and page.exists() else None
        frames = f"{sparse['models'][number]} of {sparse['frames']}"
        points = figures.get("points") or None
        found.append(Outcome(sequence, number, frames, points, shown, figures.get("problem")))
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as aligned lines of text."""
    rows = [_COLUMNS, *(_cells(each) for each in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write_index(path: Path, title: str, outcomes: Sequence[Outcome]) -> None:
    """Write the page that lists all sequences and models and links their reports.

    Raises:
        LumenError: if it cannot be written.
    """
    note = "<p>Scales and world coordinates of different models are unrelated.</p>" if len(outcomes) > 1 else ""
    rows = "".join(_row(each, path.parent) for each in outcomes)
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{note}<table><tr>{head}</tr>{rows}</table></body></html>\n"
    )
    write_bytes(path, page.encode())


def _cells(outcome: Outcome) -> tuple[str, ...]:
    points = "" if outcome.points is None else f"{outcome.points:,}"
    model = "" if outcome.model is None else str(outcome.model)
    return outcome.sequence, model, outcome.frames, points, outcome.problem or "done"


def _row(outcome: Outcome, folder: Path) -> str:
    cells = [html.escape(cell) for cell in _cells(outcome)]
    if outcome.problem:
        cells[-1] = f'<span class="problem">{cells[-1]}</span>'
    elif outcome.page is not None:
        cells[-1] = f'<a href="{html.escape(os.path.relpath(outcome.page, folder))}">report</a>'
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _counts(report: Path) -> Mapping[str, Any]:
    with explain_os_errors("read", report):
        counts: dict[str, Any] = json.loads(report.read_text())["counts"] if report.exists() else {}
    return counts
