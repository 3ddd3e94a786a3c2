"""Where batches are generated."""
