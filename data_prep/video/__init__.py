"""Frame sources: videos and folders of images, with the index and timestamp of each frame."""
