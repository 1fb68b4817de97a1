"""What `train.py` trains and `test.py` measures, by the name of the flag's value."""

from descriptor.evaluation.sequences import TestConfig, measure
from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.gift.train import train as train_gift
from descriptor.gift.train_config import GiftTrainConfig
from descriptor.keypoints.evaluation import KeypointConfig, measure_keypoints
from pipeline.command.run_command import Variants

# --method
METHODS: Variants = {
    "fcdensenet": (TrainConfig, train),
    "gift": (GiftTrainConfig, train_gift),
}
# --task
TASKS: Variants = {
    "sequences": (TestConfig, measure),
    "hpatches": (KeypointConfig, measure_keypoints),
    "relative_pose": (KeypointConfig, measure_keypoints),
}
