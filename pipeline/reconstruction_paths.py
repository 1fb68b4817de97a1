"""Every file name of a reconstruction."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.paths import MappingPaths, RunPaths, SequencePaths, TrainingPaths


@dataclass(frozen=True)
class ReconstructionPaths(MappingPaths):
    """The files of a reconstruction. Its folder is a sequence too, with the dense models as its training data.

    Attributes:
        root: the folder.
        number: of the model that `sparse`, `dense`, the cloud and what follows from it belong to; 0 is the largest.
    """

    number: int = 0

    def of_model(self, number: int) -> "ReconstructionPaths":
        """The files of another model of the same run."""
        return replace(self, number=number)

    @property
    def results(self) -> Path:
        """The folder of what others take over: the run's own for model 0, one of its own for each further model."""
        return self.root if self.number == 0 else self.root / f"model_{self.number}"

    @property
    def further_results(self) -> list[Path]:
        """The folders of results of all further models that there are."""
        return sorted(self.root.glob("model_*"))

    @property
    def training_data(self) -> TrainingPaths:
        """The dense model as training data."""
        return TrainingPaths(self.root, number=self.number)

    @property
    def index(self) -> Path:
        """A page that lists all sequences and models of a run."""
        return self.root / "index.html"

    @property
    def sequence(self) -> SequencePaths:
        return SequencePaths(self.root)

    @property
    def manifest(self) -> Path:
        return RunPaths(self.root).manifest

    @property
    def config(self) -> Path:
        return RunPaths(self.root).config("reconstruct")

    def stage_report(self, stage: str) -> Path:
        return RunPaths(self.root).report(stage)

    @property
    def extracted(self) -> Path:
        """The sequences of a video that was given."""
        return self.root / "extracted"

    @property
    def input(self) -> Path:
        """Of which input this is, by fingerprints."""
        return self.root / "input.json"

    @property
    def extraction_manifest(self) -> Path:
        return self.root / "extraction.json"

    @property
    def training(self) -> Path:
        """What `train.py` writes: the descriptor of this video."""
        return self.root / "training"

    def work(self, stage: str) -> Path | None:
        """Where a stage keeps what it has done so far; None for a short one."""
        folders = {"match": self.correspondences, "map": self.mapping, "densify": self.reference_points}
        return {**folders, "train": self.training}.get(stage)

    @property
    def sparse_models(self) -> Path:
        return self.root / "sparse"

    @property
    def sparse(self) -> Path:
        """The sparse COLMAP model."""
        return self.sparse_models / str(self.number)

    @property
    def dense(self) -> Path:
        """The COLMAP model of the dense points, with the poses of `sparse`."""
        return self.dense_models / str(self.number)

    @property
    def dense_models(self) -> Path:
        return self.root / "dense"

    @property
    def reference_points(self) -> Path:
        """The dense points of each reference image of each model, until all are joined."""
        return self.root / "reference_points"

    @property
    def earlier_results(self) -> list[Path]:
        """What earlier versions wrote under other names."""
        reports = (self.stage_report(name) for name in ("correspond", "skeleton", "flesh"))
        return [*reports, self.root / "flesh"]

    @property
    def dense_tracks(self) -> Path:
        """Where each dense point is seen (`pipeline.data.tracks`)."""
        return self.results / "dense_tracks.npz"

    @property
    def point_cloud(self) -> Path:
        return self.results / "points.ply"

    @property
    def trajectory(self) -> Path:
        return self.results / "trajectory.tum"

    @property
    def transforms(self) -> Path:
        """nerfstudio's."""
        return self.results / "transforms.json"

    @property
    def overlay(self) -> Path:
        """The video with the points on it."""
        return self.results / "overlay.mp4"

    @property
    def page(self) -> Path:
        return self.results / "report.html"

    @property
    def next_round(self) -> Path:
        """The run that was trained on this one's dense model."""
        return self.root / "next_round"
