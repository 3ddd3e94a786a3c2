"""Models as files: which are on this machine, what they are, how they get here, and whether they changed."""

DTYPES = ("float32", "float16", "bfloat16")
"""The types that weights can be converted to."""
