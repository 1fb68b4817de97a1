"""Training for all methods: loop, checkpoints, logs, optimizer, augmentation."""
