"""Where models come from: one file each, listed in `sdcli.registry.MODEL_SOURCES`.

`find(request)` returns a `ModelSource`, or None if the request is for another source.
"""
