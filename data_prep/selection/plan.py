"""What an extraction will write, and its description for the log, the report and `sequence.yaml`."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pycolmap
from cv2.typing import MatLike as Image

from data_prep.calibration.undistort import Undistortion
from data_prep.selection.contact_sheet import TilePlan, pick_tiles
from data_prep.selection.frame_choice import Segment, Verdict
from data_prep.selection.survey import Survey
from data_prep.video.source_frame import UPRIGHT, SourceInfo
from pipeline.data.sequence import Calibration, Source
from pipeline.paths import SequencePaths
from pipeline.report import StageReport

# Usable stretches are rarely this short.
_FEW_FRAMES = 15

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionPlan:
    """All decisions made before the first frame is written.

    Attributes:
        segments: all stretches of the video between cuts, with the verdict on every frame.
        mask: (H, W) uint8, content area of the frames as they are written, 255 inside.
        undistortion: applied to each frame; None to write frames as recorded.
        calibration: the camera of the frames as they are written.
    """

    segments: Sequence[Segment]
    mask: Image
    undistortion: Undistortion | None
    calibration: Calibration

    @property
    def kept(self) -> list[Segment]:
        """The segments that become sequences: those with kept frames."""
        return [segment for segment in self.segments if segment.kept]

    def sequence_names(self, stride: int) -> list[str]:
        """Folder name of each of `kept`, which holds its frame range."""
        ranges = [(segment.kept[0].index, segment.kept[-1].index + 1) for segment in self.kept]
        return [SequencePaths.segment_name(*bounds, stride, number) for number, bounds in enumerate(ranges)]

    def tiles(self) -> dict[int, TilePlan]:
        """The frames on the contact sheet, by index, and how they are drawn."""
        verdicts = [verdict for segment in self.segments for verdict in segment.verdicts]
        reasons = {verdict.quality.index: verdict.reason for verdict in verdicts}
        hidden = _maybe_out_of_body(verdicts)
        kept = [index for index, reason in reasons.items() if reason is None]
        rejected = [(index, reason) for index, reason in reasons.items() if reason is not None]
        return {index: TilePlan(reasons[index], index in hidden) for index in pick_tiles(kept, rejected)}


def _maybe_out_of_body(verdicts: Sequence[Verdict]) -> set[int]:
    """Indices of frames that look out of body, and of defective frames next to them.

    Frames outside the body may also be white, dark or damaged, which makes their colour unreliable.
    """
    runs = (list(run) for is_flawed, run in groupby(verdicts, lambda verdict: bool(verdict.flags)) if is_flawed)
    outside = (run for run in runs if any("out_of_body" in verdict.flags for verdict in run))
    return {verdict.quality.index for run in outside for verdict in run}


def describe_source(info: SourceInfo, survey: Survey, sha256: str, *, with_path: bool) -> Source:
    """The source for `sequence.yaml`."""
    return Source(
        path=str(info.path) if with_path else None,
        kind=info.kind,
        sha256=sha256,
        fps=info.fps,
        frames_read=len(survey.qualities),
        orientation=[list(row) for row in info.orientation],
        interlaced=info.interlaced,
    )


def describe_calibration(file: Path | None, camera: pycolmap.Camera, undistortion: Undistortion) -> Calibration:
    """The camera for `sequence.yaml`."""
    return Calibration(
        state="undistorted",
        pinhole=[float(value) for value in undistortion.camera.params],
        file=file.name if file else None,
        model=camera.model_name,
        params=[float(value) for value in camera.params],
        field_of_view_deg=[round(float(angle), 2) for angle in undistortion.field_of_view_after],
        content_kept=round(undistortion.content_kept, 4),
        origin="file",
    )


def describe_extraction(info: SourceInfo, survey: Survey, plan: ExtractionPlan, report: StageReport) -> None:
    """Log the extraction, and add counts and warnings to the report."""
    verdicts = [verdict for segment in plan.segments for verdict in segment.verdicts]
    rejected = Counter(verdict.reason for verdict in verdicts if verdict.reason)
    share = float((plan.mask > 0).mean())
    report.counts = {
        "width": info.width,
        "height": info.height,
        "fps": round(info.fps, 3),
        "interlaced": info.interlaced,
        "orientation": info.orientation,
        "frames_read": len(verdicts),
        "frames_kept": len(verdicts) - rejected.total(),
        "rejected": dict(rejected.most_common()),
        "content_share": round(share, 4),
        "mask_margin_px": survey.margin_px,
        "calibration": plan.calibration.state,
        "segments": [_describe_segment(segment) for segment in plan.segments],
    }
    report.warnings.extend([*info.warnings, *survey.warnings])
    for segment in plan.segments:
        if not segment.kept:
            first, last = segment.verdicts[0].quality.index, segment.verdicts[-1].quality.index
            reasons = _counted(Counter(verdict.reason for verdict in segment.verdicts))
            report.warnings.append(f"frames {first} to {last}, between cuts, are not written: {reasons}")
    if len(plan.segments) > 2 and np.median([len(each.verdicts) for each in plan.segments]) < _FEW_FRAMES:
        report.warnings.append(
            f"{len(plan.segments) - 1} cuts, mostly fewer than {_FEW_FRAMES} frames apart: if only the frame rate is "
            "low, extract with --no_split_at_cuts"
        )
    for warning in report.warnings:
        logger.warning("%s", warning)
    for line in summary_lines(report):
        logger.info("%s", line)
    logger.info(
        "the content area covers %.1f %% of the frame; pixels outside it are blacked out, and no metadata of the "
        "source is copied",
        100 * share,
    )
    if plan.undistortion is not None:
        _log_field_of_view(plan.undistortion)


def summary_lines(report: StageReport) -> list[str]:
    """The report's counts as text, for the log and the contact sheet."""
    counts = report.counts
    deinterlaced = f", deinterlaced ({counts['interlaced']})" if counts["interlaced"] else ""
    rotated = ", rotated upright" if counts["orientation"] != UPRIGHT else ""
    reasons = _counted(Counter(counts["rejected"]))
    sequences = sum(segment["kept"] > 0 for segment in counts["segments"])
    return [
        f"{counts['width']}x{counts['height']} at {counts['fps']:g} frames per second{deinterlaced}{rotated}; "
        f"{counts['calibration']}",
        f"{counts['frames_kept']} of {counts['frames_read']} frames kept in {sequences} "
        f"{'sequence' if sequences == 1 else 'sequences'}; rejected: {reasons or 'none'}",
    ]


def why_nothing_is_kept(segments: Sequence[Segment], min_segment_frames: int) -> str:
    """One line for the user if no frame is kept."""
    reasons = Counter(verdict.reason for segment in segments for verdict in segment.verdicts)
    total = reasons.total()
    if total == 1:
        return "it has only one frame; a sequence needs a video"
    advice = f" (segments with fewer than {min_segment_frames} usable frames are rejected: --min_segment_frames)"
    return f"none of its {total} frames is usable: {_counted(reasons)}{advice if 'short_segment' in reasons else ''}"


def _counted(reasons: Counter[str | None]) -> str:
    return ", ".join(f"{str(reason).replace('_', ' ')} {count}" for reason, count in reasons.most_common())


def _describe_segment(segment: Segment) -> dict[str, object]:
    rejected = Counter(verdict.reason for verdict in segment.verdicts if verdict.reason)
    return {
        "first_index": segment.verdicts[0].quality.index,
        "last_index": segment.verdicts[-1].quality.index,
        "begins_because": segment.begins_because,
        "kept": len(segment.kept),
        "rejected": dict(rejected.most_common()),
    }


def _log_field_of_view(undistortion: Undistortion) -> None:
    before, after = undistortion.field_of_view_before, undistortion.field_of_view_after
    logger.info(
        "field of view kept: %.1f x %.1f of %.1f x %.1f degrees, %.1f %% of the content area",
        *(after.horizontal, after.vertical, before.horizontal, before.vertical),
        100 * undistortion.content_kept,
    )
