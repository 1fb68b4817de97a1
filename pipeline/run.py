"""The stages of a reconstruction, each skipped if what it wrote is current."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.command.config import path_settings, save_config, to_mapping
from pipeline.errors import explain_os_errors
from pipeline.manifest import Manifest, Stage, fingerprint_path
from pipeline.outputs.files import read_yaml, write_json
from pipeline.outputs.owned_files import remove_own
from pipeline.reconstruction_paths import ReconstructionPaths
from pipeline.report import StageReport

StageName = Literal["extract", "bootstrap", "train", "match", "map", "densify", "export", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)
FORMAT_VERSION = 4
# Settings of the command that change no result; nor do paths, which may also name a patient.
_NOT_SAVED = {"overwrite", "until"}

logger = logging.getLogger(__name__)


def is_reached(stage: StageName, until: StageName) -> bool:
    """Whether a stage is run if `until` is the last one."""
    return STAGES.index(stage) <= STAGES.index(until)


@dataclass
class Run:
    """The run of one sequence.

    Attributes:
        paths: where everything goes.
        until: the last stage to run.
        manifest: what is done already.
        outputs: of the last stage that was run or was current.
    """

    paths: ReconstructionPaths
    until: StageName
    manifest: Manifest
    outputs: list[Path] = field(default_factory=list)
    _last: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, root: Path, until: StageName, config: Any) -> "Run":
        """Start a run in a folder, or resume it.

        Args:
            root: the folder.
            until: the last stage to run.
            config: of the whole run, to save.

        Raises:
            LumenError: if the folder cannot be written, or holds a damaged manifest.
        """
        paths = ReconstructionPaths(root)
        with explain_os_errors("write", root):
            root.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.load(paths.manifest)
        if manifest.earlier_version is not None:
            logger.warning("%s was made by an earlier version of LumenSfM: all stages are run again", root)
            remove_own(*paths.earlier_results)
        hidden = _NOT_SAVED | path_settings(type(config))
        save_config({name: value for name, value in to_mapping(config).items() if name not in hidden}, paths.config)
        return cls(paths, until, manifest)

    def stage(
        self,
        name: StageName,
        settings: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        inputs: Mapping[str, Path | None],
        function: Callable[[StageReport], Sequence[Path]],
    ) -> None:
        """Run a stage unless it is current or comes after `until`.

        Args:
            name: of the stage.
            settings: everything in the config that its result depends on, or a function that returns it and is called
                only if the stage is reached.
            inputs: a name for each file or folder that it reads and no stage of this run writes; those that are None
                or do not exist are left out.
            function: does the work, and returns what it wrote.
        """
        if not is_reached(name, self.until):
            return
        read = {key: fingerprint_path(path) for key, path in inputs.items() if path is not None and path.exists()}
        stage = Stage(name, settings() if callable(settings) else settings, read, self._last, FORMAT_VERSION)

        def call() -> Sequence[Path]:
            report = StageReport(name)
            self._remove_outdated(name)
            work = self.paths.work(name)
            if work is not None:
                _keep_or_clear(work, self.manifest.fingerprint(stage))
            outputs = function(report)
            if work is not None and work != self.paths.training:
                remove_own(work)
            report.save(self.paths.stage_report(name))
            return outputs

        self.outputs = self.manifest.run(stage, call)
        self._last = [name]

    def _remove_outdated(self, name: StageName) -> None:
        """Remove what would not fit the new result of a stage."""
        paths = self.paths
        remove_own(*(paths.stage_report(each) for each in STAGES[STAGES.index(name) :]))
        results = [paths.page, paths.overlay, paths.point_cloud, paths.trajectory, paths.transforms, paths.dense_tracks]
        if name in ("train", "match", "map", "densify"):
            models = paths.training_data.model.parent
            remove_own(*results, *paths.further_results, paths.dense_models, models, paths.next_round)
        if name in ("train", "match", "map"):
            remove_own(paths.sparse_models, paths.unregistered)


def _keep_or_clear(work: Path, fingerprint: str) -> None:
    """Keep what a killed run with the same settings and inputs has done; remove anything else."""
    started = work / "started.json"
    if started.exists() and read_yaml(started) == {"stage": fingerprint}:
        logger.info("resuming an interrupted run")
        return
    remove_own(work)
    write_json(started, {"stage": fingerprint})
