"""Text to images from the command line, and from Python: `from sdcli import txt2img`."""

# First, because imports take a second, in which Ctrl-C would print a traceback.
from sdcli import signals as signals  # isort: skip

if signals.is_command_line():
    signals.exit_at_once()

# Before the libraries, which read the environment while they are imported.
from sdcli import quiet as quiet  # isort: skip

if signals.is_command_line():
    quiet.limit_threads()

# Binding the function here is what makes `from sdcli import txt2img` give it, and not the module of the same name.
from sdcli.txt2img import GeneratedImage, txt2img
from sdcli.version import VERSION as __version__

__all__ = ["GeneratedImage", "__version__", "txt2img"]
