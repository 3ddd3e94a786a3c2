"""Text to images from the command line, and from Python: `from sdcli import txt2img`."""

# First: before its signals are handled, Ctrl-C would print a traceback.
from sdcli import first as first  # isort: skip

# Before the libraries, which read the environment while they are imported.
from sdcli import quiet as quiet  # isort: skip

if first.IS_COMMAND_LINE:
    # The command line imports what it needs, when it needs it.
    from sdcli import start

    start.begin()
else:
    # Binding the function is what makes `from sdcli import txt2img` give it, and not the module of the same name.
    from sdcli.library import GeneratedImage, iter_txt2img, txt2img
    from sdcli.version import VERSION as __version__

__all__ = ["GeneratedImage", "__version__", "iter_txt2img", "txt2img"]
