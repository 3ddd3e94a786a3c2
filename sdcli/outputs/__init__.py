"""Images become files: PNG with their record, and the grid of the run."""
