"""Saves images: files with their records, the journal, the grid and the gallery."""
