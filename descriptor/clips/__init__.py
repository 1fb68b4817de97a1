"""Training data as a network sees it: clips of small frames, and which points their frames share."""
