"""All file names of a sequence and of a run. They are defined only here."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# The type of path arguments of public functions.
# Presets, as YAML files.
CONFIGS = Path(__file__).resolve().parent.parent / "configs"

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class SequencePaths:
    """The files of one sequence: training-data layout 2, `sequence.yaml` and the masks of frames.

    The name of an image is its frame index in the video: `images/00002603.jpg`.
    """

    root: Path

    @staticmethod
    def segment_name(first_index: int, end_index: int, stride: int, segment: int) -> str:
        """The folder of a segment with every `stride`-th frame from `first_index` to before `end_index`."""
        return f"_start_{first_index:06d}_end_{end_index:06d}_stride_{stride}_segment_{segment:02d}"

    @property
    def sequence(self) -> Path:
        """Source, timestamps, calibration and quality of the frames (`pipeline.data.sequence`)."""
        return self.root / "sequence.yaml"

    @property
    def mask(self) -> Path:
        """The content area, the same for all frames: uint8 BMP, 255 = tissue."""
        return self.root / "undistorted_mask.bmp"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def image(self, index: int) -> Path:
        return self.images / f"{index:08d}.jpg"

    @property
    def frame_masks(self) -> Path:
        return self.root / "masks"

    def frame_mask(self, index: int) -> Path:
        """The mask of a frame, content area without highlights, named as in COLMAP: uint8 PNG, 255 = use."""
        return self.frame_masks / f"{index:08d}.jpg.png"

    @classmethod
    def own_mask(cls, image: Path) -> Path | None:
        """The path of an image's mask, named as in COLMAP; None if the image is not in `images/` of a sequence."""
        paths = cls(image.parent.parent)
        return paths.frame_masks / f"{image.name}.png" if image.parent == paths.images else None

    @property
    def calibration(self) -> Path:
        """The camera of the recorded frames, if it was estimated from the video."""
        return self.root / "calibration.yaml"

    @property
    def recorded(self) -> "SequencePaths":
        """The images, masks and `sequence.yaml` before undistortion, of a sequence that was undistorted later."""
        return SequencePaths(self.root / "recorded")

    def inputs(self) -> dict[str, Path | None]:
        """What a stage depends on that reads the frames."""
        return {"sequence": self.sequence, "images": self.images, "mask": self.mask, "masks": self.frame_masks}

    @property
    def as_recorded(self) -> "SequencePaths":
        """The frames before undistortion: `recorded` if it exists, otherwise the sequence itself."""
        return self.recorded if self.recorded.sequence.exists() else self


@dataclass(frozen=True)
class TrainingPaths:
    """The files of one model of a sequence as SfM training data.

    Layout 2 stores the frames in `images/` and the model in `colmap/<number>/`. The older layout 1 stores everything in
    the sequence's folder.

    Attributes:
        root: the sequence's folder.
        layout: 1 or 2.
        number: the number of the model in layout 2; 0 is the best model.
        models: the folder of the models in layout 2, inside the sequence's folder.
    """

    root: Path
    layout: Literal[1, 2] = 2
    number: int = 0
    models: str = "colmap"

    @classmethod
    def find(cls, root: Path) -> "TrainingPaths | None":
        """The training data of a sequence's folder, in either layout, or of the folder of one model; None if none."""
        candidates = [cls(root, 2), cls(root, 1)]
        parent = root.resolve().parent
        if parent.name == "colmap" and root.resolve().name.isdigit():
            candidates.insert(0, cls(parent.parent, 2, int(root.resolve().name)))
        return next((paths for paths in candidates if paths.motion.exists()), None)

    @classmethod
    def with_depth(cls, root: Path) -> "TrainingPaths | None":
        """Like `find`, but None unless there are depth maps for the model. They exist only for the best model."""
        paths = cls.find(root)
        return paths if paths is not None and paths.number == 0 and paths.depths.is_dir() else None

    @property
    def model(self) -> Path:
        return self.root / self.models / str(self.number) if self.layout == 2 else self.root

    @property
    def motion(self) -> Path:
        """The pose of each registered view."""
        return self.model / "motion.yaml"

    @property
    def intrinsics(self) -> Path:
        """3 or 4 numbers per view, one per line."""
        return self.model / "camera_intrinsics_per_view"

    @property
    def selected(self) -> Path:
        """The indices of all frames of the sequence, one per line."""
        return self.model / "selected_indexes"

    @property
    def visible(self) -> Path:
        """The indices of the registered frames, one per line."""
        return self.model / "visible_view_indexes"

    @property
    def structure(self) -> Path:
        """The sparse cloud, PLY."""
        return self.model / "structure.ply"

    @property
    def views_per_point(self) -> Path:
        """For each point -1, then the indices of the frames that observe it, one number per line."""
        return self.model / "view_indexes_per_point"

    @property
    def mask(self) -> Path:
        return self.model / SequencePaths(self.root).mask.name

    @property
    def depths(self) -> Path:
        """Depth maps of the registered frames from a simulation, CT or a sensor, in the world of model 0."""
        return self.root / "depth"

    def depth(self, index: int) -> Path:
        """Depth along the optical axis at the pixels of a frame in `images/`: uint16 PNG; 0 = unknown."""
        return self.depths / f"{index:08d}.png"

    @property
    def depth_scale(self) -> Path:
        """Length of one step of the depth maps, in world units of the poses."""
        return self.depths / "scale.yaml"

    def image(self, index: int) -> Path:
        name = SequencePaths(self.root).image(index)
        return name if self.layout == 2 else self.root / name.name


@dataclass(frozen=True)
class MappingPaths:
    """The files of matching and mapping: of a first SfM, and of a reconstruction."""

    root: Path

    @property
    def tracks(self) -> Path:
        """All tracks (`pipeline.data.tracks`), in pixels of `images/`."""
        return self.root / "tracks.npz"

    @property
    def keyframes(self) -> Path:
        """Which frames are keyframes, and which cannot be read, by their rows."""
        return self.root / "keyframes.json"

    @property
    def correspondences(self) -> Path:
        """What has been matched so far, until the tracks are complete."""
        return self.root / "correspondences"

    @property
    def mapping(self) -> Path:
        """Databases and snapshots, until mapping is complete."""
        return self.root / "mapping"

    @property
    def log(self) -> Path:
        return self.root / "pycolmap.log"

    @property
    def unregistered(self) -> Path:
        """The frames that are in no model, an index and the reason a line."""
        return self.root / "unregistered.txt"


@dataclass(frozen=True)
class BootstrapPaths(MappingPaths):
    """The files of a sequence's first SfM beside its models, which are SfM training data and COLMAP models at once."""

    @classmethod
    def of(cls, sequence: SequencePaths) -> "BootstrapPaths":
        return cls(TrainingPaths(sequence.root).model.parent)

    @property
    def failed(self) -> Path:
        """A folder beside `root` for the results of a failed reconstruction, used if `root` has an earlier one."""
        return self.root.with_name(f"{self.root.name}_failed")

    @property
    def manifest(self) -> Path:
        return RunPaths(self.root).manifest

    @property
    def report(self) -> Path:
        return RunPaths(self.root).report("bootstrap")

    @property
    def config(self) -> Path:
        return RunPaths(self.root).config("bootstrap")

    @property
    def overview(self) -> Path:
        """A plot of point cloud, trajectory and the observations of each frame."""
        return self.root / "overview.png"

    @property
    def found_tracks(self) -> Path:
        """All tracks in pixels of the recorded frames, until the first SfM is complete."""
        return self.correspondences / "tracks.npz"


@dataclass(frozen=True)
class RunPaths:
    """The files of one run: the outputs of its stages, their settings and reports."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def contact_sheet(self) -> Path:
        return self.root / "contact_sheet.png"

    @property
    def survey(self) -> Path:
        """The measurements of the extraction on each frame of the video."""
        return self.root / "survey.json"

    @property
    def content_area(self) -> Path:
        """The content area of the recorded frames: uint8 PNG, 255 = tissue."""
        return self.root / "content_area.png"

    def config(self, stage: str) -> Path:
        return self.root / f"{stage}.yaml"

    def report(self, stage: str) -> Path:
        return self.root / "reports" / f"{stage}.json"

    def sequence(self, name: str) -> SequencePaths:
        return SequencePaths(self.root / name)

    def segments(self) -> list[Path]:
        """The folders of sequences, complete or not, sorted by name."""
        return sorted(self.root.glob("_start_*_segment_*"))

    def sequences(self) -> list[SequencePaths]:
        """The sequences in the run's folder, sorted by name."""
        return [SequencePaths(found.parent) for found in sorted(self.root.glob("*/sequence.yaml"))]


@dataclass(frozen=True)
class ConversionPaths:
    """The output files of a conversion. Images, masks and training data follow the layout of a sequence."""

    root: Path

    @property
    def model(self) -> Path:
        """COLMAP's binary model, where 3D Gaussian splatting expects it."""
        return self.root / "sparse" / "0"

    @property
    def transforms(self) -> Path:
        return self.root / "transforms.json"

    @property
    def point_cloud(self) -> Path:
        """The sparse cloud for nerfstudio, with the name that its own tools use."""
        return self.root / "sparse_pc.ply"

    @property
    def trajectory(self) -> Path:
        return self.root / "trajectory.tum"

    @property
    def check(self) -> Path:
        return self.root / "check"

    def check_plot(self, frame_index: int) -> Path:
        return self.check / f"{frame_index:08d}.png"

    @property
    def report(self) -> Path:
        return RunPaths(self.root).report("convert")

    def main(self, kind: Literal["colmap", "training", "nerfstudio", "tum"]) -> Path:
        """The main output of a conversion to `kind`."""
        model = TrainingPaths(self.root).model
        return {"colmap": self.model, "training": model, "nerfstudio": self.transforms, "tum": self.trajectory}[kind]
