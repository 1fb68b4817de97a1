"""The first SfM of a sequence: made where it is needed, and made again where this run made it with other settings."""

import logging
from dataclasses import fields

from data_prep import bootstrap
from data_prep.bootstrap import BootstrapConfig
from data_prep.bootstrap_input import InputVideo
from pipeline.files import read_yaml
from pipeline.paths import BootstrapPaths, SequencePaths, TrainingPaths
from reconstruction.config import ReconstructConfig

POINT_RULES = ("max_error_px", "min_angle_deg", "min_views", "max_depth_uncertainty", "inlier_percentage")

logger = logging.getLogger(__name__)


def make_first_sfm(config: ReconstructConfig, sequence: SequencePaths, *, is_own: bool) -> list[str]:
    """See that a sequence has a camera, and training data where they are needed.

    Args:
        config: of the reconstruction.
        sequence: to reconstruct.
        is_own: this run has extracted it, so that a first SfM of other settings is made again. The one of a sequence
            that the user gave is kept.

    Returns:
        Warnings for the report: what of a first SfM that is kept differs from the settings.

    Raises:
        NoReconstruction: if there is none, and it is needed.
    """
    wanted = _settings(config, sequence)
    if not TrainingPaths(sequence.root).motion.exists():
        is_calibrated = InputVideo.read(sequence.root, as_recorded=False).camera is not None
        if not is_calibrated or (config.trains and not config.trains_gift):
            bootstrap.run(wanted)
        return []
    if not is_own:
        return _differences(wanted)
    reason = bootstrap.reason_to_run(wanted)
    if reason is not None:
        logger.info("first SfM: %s", reason)
        bootstrap.run(wanted)
    return []


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
