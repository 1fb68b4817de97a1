"""Training of GIFT: loads the images and the starting weights for `train.py --method gift`."""

import logging
from pathlib import Path

import torch

from descriptor.checkpoint import Checkpoint
from descriptor.gift.descriptor import GiftNetwork, load_network
from descriptor.gift.images import ImageSet
from descriptor.gift.learner import GiftTraining
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.training.distributed import Processes
from descriptor.training.inputs import TrainingInputs, fingerprint_weights, hash_of, name_and_size
from descriptor.training.paths import RunFolder
from descriptor.training.run import InitialState, check_same_run, run_training
from pipeline.errors import require
from pipeline.report import StageReport

logger = logging.getLogger(__name__)


def train(config: GiftTrainConfig) -> list[Path]:
    """Train one stage of GIFT; see `descriptor.training.run.run_training`."""

    def begin(device: torch.device, processes: Processes, folder: RunFolder, report: StageReport) -> InitialState:
        require(
            config.batch_size % processes.count == 0,
            f"--batch_size {config.batch_size}: choose a multiple of the {processes.count} processes",
        )
        with report.timed("data"):
            training = ImageSet.find(config.training_data_root, config.frame_share)
            validation = _held_out(config)
            data = fingerprint_images(config.training_data_root, training, validation)
        path = config.trained_model_path
        start = None if path is None else Checkpoint.load(path)
        inputs = TrainingInputs(data, None if start is None else fingerprint_weights(start))
        checkpoint = Checkpoint.load(folder.last) if folder.last.exists() else None
        if checkpoint is not None:
            check_same_run(config, checkpoint, folder)
            inputs = inputs.resumed(checkpoint, folder, config.training_data_root)
            network = load_network(checkpoint, folder.last)
        else:
            network = _initial_network(config, start)
        method = GiftTraining(config, network.to(device).train(), training, validation)
        return InitialState(config, method, checkpoint, inputs, {"images": len(training)})

    return run_training(config, begin)


def _held_out(config: GiftTrainConfig) -> ImageSet:
    """The images before or after the training share, whichever are more; all images if all are trained on."""
    first, end = config.frame_share
    rest = (0.0, first) if first > 1 - end else (end, 1.0)
    return ImageSet.find(config.training_data_root, rest if rest[0] < rest[1] else (0.0, 1.0))


def fingerprint_images(root: Path, training: ImageSet, validation: ImageSet) -> str:
    """Fingerprint of images: paths relative to `root`, sizes in bytes, and masks; SHA-256 as hex.

    Raises:
        LumenError: if a file is missing.
    """
    masks = {id(mask): mask for images in (training, validation) for mask in images.masks}
    known = {key: None if mask is None else hash_of([mask.shape, mask.tobytes().hex()]) for key, mask in masks.items()}
    return hash_of(
        [
            [(*name_and_size(path, root), known[id(mask)]) for path, mask in zip(each.paths, each.masks, strict=True)]
            for each in (training, validation)
        ]
    )


def _initial_network(config: GiftTrainConfig, start: Checkpoint | None) -> GiftNetwork:
    """The networks of a stage before its first step."""
    network = GiftNetwork(config.rotations, embeds=config.stage == 2)
    path = config.trained_model_path
    require(
        start is not None or config.stage == 1,
        "stage 2 needs the extractor of stage 1: give its last.pt as --trained_model_path",
    )
    if start is None or path is None:
        return network
    given = load_network(start, path, config.rotations)
    network.extractor.load_state_dict(given.extractor.state_dict())
    if network.embedder is not None and given.embedder is not None:
        network.embedder.load_state_dict(given.embedder.state_dict())
    logger.info("starting from the weights in %s", path)
    return network
