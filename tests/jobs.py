"""The job that tests start from."""

from sdcli.jobs import Job


def job(**changes: object) -> Job:
    """A complete job with these changes."""
    values = {
        "prompt": "a cat", "negative_prompt": "", "seed": 7, "rng": "cuda", "noise": {}, "height": 64, "width": 128,
        "steps": 20, "sampler": "plms", "scale": 7.5, "eta": 0.0, "precision": "full", "model": "builtin",
        "model_hash": "0123456789abcdef", "index": 3,
    }  # fmt: skip
    return Job.model_validate(values | changes)
