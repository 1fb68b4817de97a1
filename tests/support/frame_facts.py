"""The quality measures of a frame without defects."""

from data_prep.selection.frame_quality import FrameQuality

GOOD = FrameQuality(
    index=0,
    timestamp_s=0.0,
    sharpness=100.0,
    exposure=95.0,
    black=0.02,
    saturated=0.01,
    highlights=0.03,
    red=0.8,
    blue=-0.2,
    change=40.0,
    motion_px=3.0,
    continuity=1.0,
    skip_continuity=None,
    damaged=False,
)
