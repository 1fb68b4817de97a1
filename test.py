"""python test.py --testing_data_root DIR --trained_model_path FILE --log_root DIR: measure a dense descriptor."""

import sys

from descriptor.testing import TestConfig, measure
from pipeline.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(TestConfig, measure))
