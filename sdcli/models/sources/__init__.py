"""Where models come from: the builtin one, checkpoint files, diffusers folders and the Hugging Face hub."""
