"""python train.py --training_data_root DIR --log_root DIR: train a descriptor."""

if __name__ == "__main__":
    from pipeline.interruption import watch_signals

    watch_signals()


import sys

from descriptor.gift.training import train as train_gift
from descriptor.gift.training_config import GiftTrainConfig
from descriptor.training import train
from descriptor.training_config import TrainConfig
from pipeline.command import Variants, run_variant

if __name__ == "__main__":
    methods: Variants = {
        "fcdensenet": (TrainConfig, train),
        "gift": (GiftTrainConfig, train_gift),
    }
    sys.exit(run_variant("method", methods))
