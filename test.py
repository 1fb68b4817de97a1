"""Evaluate a descriptor: python test.py --testing_data_root DIR --trained_model_path FILE --log_root DIR."""

if __name__ == "__main__":
    from pipeline.command.interruption import watch_signals

    watch_signals()


import sys

from descriptor.evaluation.sequences import TestConfig, measure
from descriptor.keypoints.evaluation import KeypointConfig, measure_keypoints
from pipeline.command.run_command import Variants, run_variant

if __name__ == "__main__":
    photographs = (KeypointConfig, measure_keypoints)
    tasks: Variants = {
        "sequences": (TestConfig, measure),
        "hpatches": photographs,
        "relative_pose": photographs,
    }
    sys.exit(run_variant("task", tasks))
