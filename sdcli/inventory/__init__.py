"""Models as files: which are on this machine, what they are, how they get here, and whether they changed."""
