"""The first SfM of each sequence of a video: made where needed, and made again where this run made it otherwise."""

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.bootstrap_video import bootstrap_video
from pipeline.data.sequence import Sequence as SequenceFacts
from pipeline.errors import LumenError
from pipeline.outputs.files import read_yaml
from pipeline.paths import BootstrapPaths, SequencePaths, TrainingPaths
from reconstruction.config import ReconstructConfig
from sfm.input_video import InputVideo

POINT_RULES = ("max_error_px", "min_angle_deg", "min_views", "max_depth_uncertainty", "inlier_percentage")

logger = logging.getLogger(__name__)


def make_first_sfms(
    config: ReconstructConfig, sequences: Sequence[SequencePaths], *, are_own: bool
) -> dict[Path, list[str] | LumenError]:
    """See that each sequence of a video has a camera, and training data where they are needed.

    Args:
        config: of the reconstruction.
        sequences: to reconstruct.
        are_own: this run has extracted them, so that a first SfM of other settings is made again. The one of a sequence
            that the user gave is kept.

    Returns:
        For each sequence's folder, warnings for the report: what of a first SfM that is kept differs from the settings;
        or why there is no first SfM although it is needed.
    """
    found: dict[Path, list[str] | LumenError] = {}
    wanted: list[BootstrapConfig] = []
    for sequence in sequences:
        settings = _settings(config, sequence)
        try:
            has_model = TrainingPaths(sequence.root).motion.exists()
            reason = _reason_to_run(config, settings, has_model=has_model, is_own=are_own)
        except LumenError as error:
            found[sequence.root] = error
            continue
        found[sequence.root] = _differences(settings) if has_model and not are_own else []
        if reason is not None:
            logger.info("first SfM: %s", reason)
            wanted.append(settings)
        elif has_model:
            # Its camera is that of the video.
            wanted.append(replace(settings, overwrite=False))
    for video in _by_video(wanted):
        if any(each.overwrite for each in video):
            outcomes = bootstrap_video(video)
            found |= {folder: outcome for folder, outcome in outcomes.items() if isinstance(outcome, LumenError)}
    return found


def _by_video(configs: Sequence[BootstrapConfig]) -> list[list[BootstrapConfig]]:
    """The sequences of each video together: they were recorded by one camera."""
    groups: dict[str, list[BootstrapConfig]] = {}
    for config in configs:
        facts = SequenceFacts.load(SequencePaths(config.sequence).as_recorded.sequence)
        groups.setdefault(facts.source.sha256, []).append(config)
    return list(groups.values())


def _reason_to_run(
    config: ReconstructConfig, settings: BootstrapConfig, *, has_model: bool, is_own: bool
) -> str | None:
    """Why the first SfM of a sequence has to be made; None if it does not."""
    if has_model:
        return bootstrap.reason_to_run(settings) if is_own else None
    is_calibrated = InputVideo.read(settings.sequence, as_recorded=False).camera is not None
    return None if is_calibrated and not config.trains_on_model else "not run yet"


def _settings(config: ReconstructConfig, sequence: SequencePaths) -> BootstrapConfig:
    rules = {name: getattr(config, name) for name in POINT_RULES}
    shared = {name: getattr(config, name) for name in ("points", "seed", "name")}
    return BootstrapConfig(sequence.root, overwrite=True, **shared, **rules)


def _differences(wanted: BootstrapConfig) -> list[str]:
    """How the settings of a first SfM that is kept differ from those of this run."""
    path = BootstrapPaths.of(SequencePaths(wanted.sequence)).config
    made = read_yaml(path) if path.exists() else None
    if not isinstance(made, dict):
        return []
    names = [each.name for each in fields(wanted) if each.name in ("points", "seed", *POINT_RULES)]
    differing = [
        f"--{name} {made[name]} (now {getattr(wanted, name)})"
        for name in names
        if name in made and made[name] != getattr(wanted, name)
    ]
    if not differing:
        return []
    return [
        f"the sequence's first SfM was made with {', '.join(differing)} and is kept: "
        "python data_prep/bootstrap.py SEQUENCE --overwrite makes it again"
    ]
