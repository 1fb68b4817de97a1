"""What an observation and a point have to satisfy to be in a sparse model."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from pipeline.command.bounds import Positive, PositiveShare, Settings


@dataclass(frozen=True)
class MapConfig(Settings):
    """Which observations and points a sparse model keeps."""

    max_error_px: Positive | None = None
    """Largest reprojection error of an observation; by default 1.5 px per 540 px of the content area."""
    min_angle_deg: Annotated[float, msgspec.Meta(gt=0, lt=90)] = 1.5
    """Smallest angle between the rays of a point."""
    min_views: Annotated[int, msgspec.Meta(ge=2)] = 4
    """Fewest frames in which a point is observed."""
    max_depth_uncertainty: Positive = 0.02
    """Points whose depth is less certain than this share of it (one standard deviation) are removed."""
    inlier_percentage: PositiveShare = 0.99
    """Share of the points to keep by how consistent their colour is from view to view, 0 to 1."""
