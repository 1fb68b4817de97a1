"""Training, whatever the method: the loop, checkpoints on disk, logs, optimizer, augmentation."""
