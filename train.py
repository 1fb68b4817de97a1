"""python train.py --training_data_root DIR --log_root DIR: train the dense descriptor."""

import sys

from descriptor.training import train
from descriptor.training_config import TrainConfig
from pipeline.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(TrainConfig, train))
