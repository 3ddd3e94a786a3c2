"""Text to images from the command line, and from Python: `from sdcli import txt2img`."""

# Before the libraries, which read the environment while they are imported.
from sdcli import quiet as quiet  # isort: skip
from sdcli import signals, start

if signals.is_command_line():
    # The command line imports what it needs, when it needs it.
    start.begin()
else:
    # Binding the function is what makes `from sdcli import txt2img` give it, and not the module of the same name.
    from sdcli.txt2img import GeneratedImage, txt2img
    from sdcli.version import VERSION as __version__

__all__ = ["GeneratedImage", "__version__", "txt2img"]
