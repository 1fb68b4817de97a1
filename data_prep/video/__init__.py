"""Reading frames: videos and folders of images, with the time and index of each frame."""
