"""Every file name of a reconstruction."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.paths import RunPaths, SequencePaths


@dataclass(frozen=True)
class ReconstructionPaths:
    """The files of a reconstruction. Its folder is a sequence too, with the dense model as its training data."""

    root: Path

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

    @property
    def correspondences(self) -> Path:
        """What is found while following points, until all are."""
        return self.root / "correspondences"

    @property
    def tracks(self) -> Path:
        """The points from which the camera's path follows (`pipeline.tracks`)."""
        return self.root / "tracks.npz"

    @property
    def keyframes(self) -> Path:
        """Which frames are keyframes, and which cannot be read, by their rows."""
        return self.root / "keyframes.json"

    @property
    def mapping(self) -> Path:
        """Databases and snapshots, until the camera's path is known."""
        return self.root / "mapping"

    def work(self, stage: str) -> Path | None:
        """Where a stage keeps what it has done so far; None for a short one."""
        folders = {"correspond": self.correspondences, "skeleton": self.mapping, "flesh": self.flesh}
        return {**folders, "train": self.training}.get(stage)

    @property
    def log(self) -> Path:
        return self.root / "pycolmap.log"

    @property
    def unregistered(self) -> Path:
        """The frames that the best model lacks, an index and the reason a line."""
        return self.root / "unregistered.txt"

    @property
    def sparse_models(self) -> Path:
        return self.root / "sparse"

    def sparse(self, number: int = 0) -> Path:
        """A COLMAP model of the camera's path; 0 is the best."""
        return self.sparse_models / str(number)

    @property
    def dense(self) -> Path:
        """The COLMAP model of the dense points, with the poses of `sparse(0)`."""
        return self.root / "dense" / "0"

    @property
    def flesh(self) -> Path:
        """The dense points of each reference, until all are joined."""
        return self.root / "flesh"

    @property
    def dense_tracks(self) -> Path:
        """Where each dense point is seen (`pipeline.tracks`)."""
        return self.root / "dense_tracks.npz"

    @property
    def point_cloud(self) -> Path:
        return self.root / "points.ply"

    @property
    def trajectory(self) -> Path:
        return self.root / "trajectory.tum"

    @property
    def transforms(self) -> Path:
        """nerfstudio's."""
        return self.root / "transforms.json"

    @property
    def overlay(self) -> Path:
        """The video with the points on it."""
        return self.root / "overlay.mp4"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def next_round(self) -> Path:
        """The run that was trained on this one's dense model."""
        return self.root / "next_round"
