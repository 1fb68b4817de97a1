"""Video → dense points: what each stage is given, their order, and what is kept of an earlier run."""
