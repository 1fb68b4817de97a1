"""The contact sheet shows no faces or text of frames that may be filmed outside the body."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.selection.contact_sheet import draw_thumbnail
from data_prep.selection.frame_choice import Segment, Verdict
from data_prep.selection.plan import ExtractionPlan
from extraction import extract
from frame_facts import GOOD
from pipeline.data.sequence import Calibration
from videos import SIZE, disc_mask, endoscopic_frames, write_video


def room(text: str) -> np.ndarray:
    """A grey room with a face and a line of text, as large as the content area."""
    frame = np.full((SIZE[1], SIZE[0], 3), (150, 140, 120), np.uint8)
    cv2.ellipse(frame, (160, 120), (50, 65), 0, 0, 360, (150, 170, 210), cv2.FILLED)
    for column in (140, 180):
        cv2.circle(frame, (column, 100), 8, (40, 30, 30), cv2.FILLED)
    cv2.putText(frame, text, (70, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
    return cv2.bitwise_and(frame, frame, mask=disc_mask())


def edges(image: np.ndarray) -> float:
    """The strongest edge well inside the content area, levels per pixel."""
    height, width = image.shape[:2]
    middle = image[height // 3 : -height // 3, width // 3 : -width // 3].astype(np.float32)
    return float(np.abs(cv2.Laplacian(middle, cv2.CV_32F)).max())


def test_hidden_frame_shows_neither_text_nor_edges() -> None:
    none = np.zeros(SIZE[::-1], np.uint8)
    jane, john = (draw_thumbnail(room(text), disc_mask(), none, hidden=True) for text in ("DOE JANE", "ROE JOHN"))
    shown = draw_thumbnail(room("DOE JANE"), disc_mask(), none)
    assert edges(shown) > 100 and edges(jane) < 10
    assert np.abs(jane.astype(int) - john).max() <= 8
    assert jane[:, :20].max() == 0, "nothing outside the content area is shown"


def test_highlights_are_not_drawn_on_a_hidden_frame() -> None:
    plain, text = (np.zeros(SIZE[::-1], np.uint8) for _ in range(2))
    cv2.putText(text, "DOE JANE", (70, 120), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255.0,), 5)
    images = [draw_thumbnail(room(""), disc_mask(), each, hidden=True) for each in (plain, text)]
    np.testing.assert_array_equal(*images)


def verdict(index: int, *flags: str, kept: bool = False) -> Verdict:
    return Verdict(replace(GOOD, index=index), None if kept or not flags else flags[0], flags)


@pytest.mark.parametrize("keep_all", [False, True])
def test_out_of_body_frames_and_adjacent_bad_frames_are_hidden(keep_all: bool) -> None:
    flags = ["", "white", "out_of_body", "dark", "", "dark", "", "blurred"]
    verdicts = tuple(verdict(index, *filter(None, [flag]), kept=keep_all) for index, flag in enumerate(flags))
    mask = np.full((8, 8), 255, np.uint8)
    plan = ExtractionPlan([Segment(verdicts, "start")], mask, None, Calibration("uncalibrated"))
    assert {index for index, tile in plan.tiles().items() if tile.hidden} == {1, 2, 3}
    assert {index: tile.reason for index, tile in plan.tiles().items()} == {
        index: None if keep_all or not flag else flag for index, flag in enumerate(flags)
    }


@pytest.mark.parametrize("keep_all", [False, True])
def test_contact_sheet_of_a_video_that_leaves_the_body_shows_no_face(tmp_path: Path, keep_all: bool) -> None:
    tissue = endoscopic_frames(24)
    video = write_video(tmp_path / "video.mp4", [*tissue[:12], *[room("DOE JANE")] * 4, *tissue[12:]])
    sheet = cv2.imread(str(extract(video, tmp_path / "out", keep_all=keep_all).contact_sheet))
    assert sheet is not None
    face = room("DOE JANE")[85:115, 125:195]
    assert cv2.matchTemplate(sheet, face, cv2.TM_CCOEFF_NORMED).max() < 0.75
    assert cv2.matchTemplate(room("DOE JANE"), face, cv2.TM_CCOEFF_NORMED).max() > 0.99
