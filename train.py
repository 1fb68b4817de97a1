"""Train a descriptor: python train.py --training_data_root DIR --log_root DIR."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import sys

from descriptor.fcdensenet.train import train
from descriptor.fcdensenet.train_config import TrainConfig
from descriptor.gift.train import train as train_gift
from descriptor.gift.train_config import GiftTrainConfig
from pipeline.command.run_command import Variants, run_variant

if __name__ == "__main__":
    methods: Variants = {
        "fcdensenet": (TrainConfig, train),
        "gift": (GiftTrainConfig, train_gift),
    }
    sys.exit(run_variant("method", methods))
