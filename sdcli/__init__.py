"""Text to pictures from the command line, and from Python: `from sdcli import txt2img`."""

# Binding the function here is what makes `from sdcli import txt2img` give it, and not the module of the same name.
from sdcli.txt2img import Picture, txt2img
from sdcli.version import VERSION as __version__

__all__ = ["Picture", "__version__", "txt2img"]
