"""What `reconstruct.py` takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import tyro

from data_prep.video.image_order import NumberMeaning
from descriptor.frame_cache import DEFAULT_LIMIT_GB, check_limit, default_cache_root
from descriptor.matching.engines.choice import EngineName
from descriptor.matching.keypoint_matching import KeypointRules
from descriptor.matching.pair_policy import DdlPolicy
from pipeline.errors import require
from sfm.mapping.clean_models import CleaningRules

PairsName = Literal["keyframes", "ddl", "similar", "sequential", "exhaustive"]
StageName = Literal["extract", "bootstrap", "train", "correspond", "skeleton", "flesh", "export", "report"]
STAGES: tuple[StageName, ...] = ("extract", "bootstrap", "train", "correspond", "skeleton", "flesh", "export", "report")

# The settings of the extraction, with their values where a sequence is given.
EXTRACTION_DEFAULTS: Mapping[str, Any] = {
    "calibration": None,
    "stride": 1,
    "split_at_cuts": True,
    "keep_all": False,
    "min_segment_frames": 5,
    "image_fps": 30.0,
    "image_kind": None,
    "image_numbers": "auto",
    "record_path": False,
}

Part = TypeVar("Part")

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
TRAIN_CONFIG = CONFIGS / "train" / "cpu_quick.yaml"


@dataclass(frozen=True)
class ReconstructConfig:
    """Turn an endoscopic video into camera poses and an extremely dense point cloud.

    Look at report.html in the output first. The same command goes on with a run that was stopped.
    """

    PRESETS: ClassVar[Path] = CONFIGS / "reconstruct"

    input: tyro.conf.Positional[Path]
    """A video, a folder of images, or a sequence as extract.py makes it; a first SfM of a sequence is written into its
    folder if it has none."""
    output: Path | None = None
    """Folder to write into; by default runs/NAME OF THE INPUT. No file in it says that name."""
    name: str | None = None
    """Title of the report and the overview; by default the first digits of the video's SHA-256."""
    until: StageName = "report"
    """The last stage to run; the same command without it goes on."""
    rounds: int = 1
    """How often to train and reconstruct: the second round trains on the dense model of the first."""

    calibration: Path | None = None
    """Camera calibration of a video or images; without one, the camera is estimated."""
    stride: int = 1
    """Take one frame of every STRIDE of a video."""
    split_at_cuts: bool = True
    """Reconstruct each stretch between hard cuts of a video on its own; --no_split_at_cuts takes all frames as one, for
    videos of few frames a second, where every step looks like a cut."""
    keep_all: bool = False
    """Keep every sampled frame of a video whatever its quality."""
    min_segment_frames: int = 5
    """Do not take stretches between cuts that have fewer usable frames."""
    image_fps: float = 30.0
    """Frames a second of a folder of images whose names hold no times."""
    image_kind: str | None = None
    """Kind of images to use in a folder that holds several, such as color or left; as in extract.py."""
    image_numbers: NumberMeaning = "auto"
    """What the numbers in the names of images are: frame numbers, or times in that unit; as in extract.py."""
    record_path: bool = False
    """Write the path of the video to sequence.yaml and that of the calibration to extract.yaml: they may name a
    patient."""

    correspondences: Literal["descriptor", "flow", "both"] = "both"
    """Where correspondences come from: a dense descriptor, optical flow, or flow where it reaches and the descriptor
    beyond."""
    descriptor: Literal["fcdensenet", "gift"] | None = None
    """The method that is trained, or that --weights has to be of; by default fcdensenet, or whatever the file holds."""
    weights: Path | None = None
    """Descriptor to begin with, a checkpoint of ours or DDL's, or of GIFT as it is."""
    rotations: Literal[5, 8] | None = None
    """Of GIFT's group, for --weights that do not tell; 5 by default."""
    train_minutes: float = 15.0
    """Train the descriptor on this very video for so long; 0 takes --weights as they are."""
    train_config: Path = TRAIN_CONFIG
    """The other settings of the training; gift has its own, configs/gift/cpu_quick1.yaml and cpu_quick2.yaml."""
    matcher: EngineName = "auto"
    """How descriptors are searched: exhaustively by torch or, on a GPU, by CuPy, of which auto takes the faster that is
    there; or nearly so from coarse to fine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the descriptor computes."""

    points: int = 1000
    """Points that begin in each keyframe, for the camera's path."""
    pairs: PairsName = "keyframes"
    """Which frames are matched for the camera's path. keyframes: points of keyframes with the frames around them, with
    further keyframes, and by descriptors with any keyframe that looks alike. The others match SIFT's keypoints frame
    by frame, with the options of Dense Descriptor Learning (DDL) up to --hysterisis_factor. ddl: the next frames, and
    later ones where a few keypoints agree. similar: as ddl, but of the later ones only those that look most alike as a
    whole are tried. sequential: the next frames alone. exhaustive: all with all, for some hundred frames at most."""
    similar_frames: int = 10
    """How many later frames are tried with each, for --pairs similar."""
    max_feature_detection: int = 3000
    """DDL: most keypoints of a frame, where SIFT finds something."""
    cross_check_distance: float = 5.0
    """DDL: a match has to lead back this near to its start, px of a quarter of the frame's size."""
    temporal_range: int = 30
    """DDL: how many frames after a frame are matched with it in any case."""
    test_keypoint_num: int = 200
    """DDL: keypoints that frames beyond are tried with."""
    residual_threshold: float = 5.0
    """DDL: largest distance of a match from its epipolar line, px of a quarter of the frame's size."""
    octave_layers: int = 8
    """DDL: of SIFT's detector."""
    contrast_threshold: float = 5.0e-5
    """DDL: of SIFT's detector."""
    edge_threshold: float = 100.0
    """DDL: of SIFT's detector."""
    sigma: float = 1.1
    """DDL: of SIFT's detector."""
    skip_interval: int = 5
    """DDL: every how many-th frame beyond is tried; frames that are tried as similar are so far apart, too."""
    min_inlier_ratio: float = 0.2
    """DDL: pairs of which a smaller share of the matches agrees are not used."""
    hysterisis_factor: float = 0.7
    """DDL: frames after one that agreed are matched until one agrees less than this times the usual."""
    max_error_px: float | None = None
    """Largest reprojection error of an observation; by default 1.5 px per 540 px of the content area."""
    min_angle_deg: float = 1.5
    """Smallest angle between the rays of a point."""
    min_views: int = 4
    """Fewest frames in which a point is observed."""
    max_depth_uncertainty: float = 0.02
    """Points whose depth is less certain than this share of it (one standard deviation) are removed."""
    inlier_percentage: float = 0.99
    """Share of the points to keep by how consistent their colour is from view to view, 0 to 1."""

    references: int = 48
    """Most frames from which dense points begin."""
    coverage: float = 0.6
    """Stop beginning points when every frame has this share of its cells covered, 0 to 1."""
    reach: int = 48
    """How many frames before and after a reference its dense points are looked for by flow."""
    cell_px: int | None = None
    """Side of the cells of a frame that hold one observation each; by default 4 px per 1000 px of the content area."""

    seed: int = 0
    """Of the random choices."""
    cache_root: Path = field(default_factory=default_cache_root)
    """Where decoded frames for the training are kept."""
    cache_limit_gb: float | None = DEFAULT_LIMIT_GB
    """Most that all decoded frames may take, GB; those whose last use is longest ago are removed first, those in use
    never. None for no limit."""
    overwrite: bool = False
    """Replace the reconstruction of another input in the output; not needed when only settings change. Files that
    LumenSfM did not write stay."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"--rounds {self.rounds}: choose 1 or more")
        require(self.stride >= 1, f"--stride {self.stride}: choose 1 or more")
        require(self.train_minutes >= 0, f"--train_minutes {self.train_minutes:g}: choose 0 or more")
        require(self.similar_frames >= 1, f"--similar_frames {self.similar_frames}: choose 1 or more")
        require(self.points >= 50, f"--points {self.points}: choose 50 or more")
        require(self.max_error_px is None or self.max_error_px > 0, f"--max_error_px {self.max_error_px}: above 0")
        require(0 < self.min_angle_deg < 90, f"--min_angle_deg {self.min_angle_deg:g}: choose between 0 and 90")
        require(self.references >= 1, f"--references {self.references}: choose 1 or more")
        require(0 < self.coverage <= 1, f"--coverage {self.coverage:g}: above 0, at most 1")
        require(self.reach >= 1, f"--reach {self.reach}: choose 1 or more")
        require(self.cell_px is None or self.cell_px >= 1, f"--cell_px {self.cell_px}: choose 1 or more")
        require(self.seed >= 0, f"--seed {self.seed}: choose 0 or more")
        check_limit(self.cache_limit_gb)
        if self.correspondences != "flow":
            require(
                self.weights is not None or self.train_minutes > 0,
                "there is no descriptor: give --weights, or --train_minutes above 0, or use --correspondences flow",
            )
            require(
                self.rounds == 1 or self.train_minutes > 0, "another round is to train again: --train_minutes above 0"
            )
        else:
            require(self.rounds == 1, "--rounds is for a descriptor that is trained: not with --correspondences flow")

        require(
            not self.trains_gift or (self.weights is None and self.rounds == 1),
            "GIFT is trained from nothing, once: leave out --weights and --rounds, or give --train_minutes 0",
        )
        require(
            not self.trains_gift or self.train_config == TRAIN_CONFIG,
            "--train_config is for fcdensenet: gift is trained with configs/gift/cpu_quick1.yaml and cpu_quick2.yaml",
        )
        require(
            self.pairs == "keyframes" or self.correspondences == "descriptor",
            f"--pairs {self.pairs} is for --correspondences descriptor",
        )
        # They check what they are given.
        _ = self.policy, self.keypoint_rules, self.cleaning

    @property
    def cleaning(self) -> CleaningRules:
        """The part of the settings that says which points stay."""
        return _part_of(self, CleaningRules)

    @property
    def policy(self) -> DdlPolicy:
        """The part of the settings that chooses pairs as DDL does."""
        return _part_of(self, DdlPolicy)

    @property
    def keypoint_rules(self) -> KeypointRules:
        """The part of the settings that matches pairs as DDL does."""
        return _part_of(self, KeypointRules)

    @property
    def uses_descriptor(self) -> bool:
        return self.correspondences != "flow"

    @property
    def trains(self) -> bool:
        return self.uses_descriptor and self.train_minutes > 0

    @property
    def trains_on_model(self) -> bool:
        """Whether the training needs a first SfM: GIFT is trained on images alone."""
        return self.trains and not self.trains_gift

    @property
    def trained_method(self) -> str:
        return self.descriptor or "fcdensenet"

    @property
    def trains_gift(self) -> bool:
        return self.trains and self.trained_method == "gift"


def _part_of(config: ReconstructConfig, part: type[Part]) -> Part:
    """The dataclass whose fields the settings have by the same names."""
    values: dict[str, Any] = {each.name: getattr(config, each.name) for each in fields(part)}  # type: ignore[arg-type]
    return part(**values)
