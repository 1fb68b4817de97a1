"""Settings for a reconstruction of a small phantom in seconds."""

from typing import Any

FAST: dict[str, Any] = {"correspondences": "flow", "points": 400, "references": 4}
