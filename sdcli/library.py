"""The library: `sdcli.txt2img` and `sdcli.iter_txt2img`. Settings are keywords, and errors name them as keywords."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdcli.errors import SdcliError, UsageError
from sdcli.events import Progress, ignore
from sdcli.images import GeneratedImage
from sdcli.run import Run
from sdcli.settings import Settings, options, spellings, with_flags
from sdcli.suggestions import did_you_mean, elsewhere, near, spelling
from sdcli.txt2img import execute

__all__ = ["GeneratedImage", "iter_txt2img", "txt2img"]


def txt2img(
    prompt: str | Sequence[str], *, outdir: str | Path | None = None, progress: Progress = ignore, **settings: Any
) -> list[GeneratedImage]:
    """Generate images of prompts. Configuration files and the environment are not read.

    Args:
        prompt: text that describes the image, or several such texts. Each has one image, unless `images_per_prompt`,
            `n_samples` or `n_iter` says how many.
        outdir: where to save images and grid; by default nothing is saved.
        progress: receives the events of the run.
        settings: any of `sdcli.settings.Settings`, by name: steps, sampler, scale, seed, height, width...

    Raises:
        sdcli.errors.SdcliError: each says what failed, why, and what to do.
    """
    return list(iter_txt2img(prompt, outdir=outdir, progress=progress, **settings))


def iter_txt2img(
    prompt: str | Sequence[str], *, outdir: str | Path | None = None, progress: Progress = ignore, **settings: Any
) -> Iterator[GeneratedImage]:
    """Generate images as `txt2img` does, and give each as soon as it is finished.

    Args:
        prompt: as for `txt2img`.
        outdir: as for `txt2img`.
        progress: as for `txt2img`.
        settings: as for `txt2img`.

    Raises:
        sdcli.errors.SdcliError: whatever can be known before the model loads is raised by the call itself.
    """
    with _keywords_in_errors():
        values = {_keyword(name): value for name, value in settings.items()}
        if values.keys().isdisjoint({"images_per_prompt", "n_samples", "n_iter", "seeds"}):
            values["images_per_prompt"] = 1
        if "prompts" not in values:
            values["prompts"] = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        where = {"skip_save": True, "skip_grid": True} if outdir is None else {"outdir": str(outdir)}
        run = Run(Settings.of(**(where | values)), progress)
    return _images(run, progress)


def _images(run: Run, progress: Progress) -> Iterator[GeneratedImage]:
    with _keywords_in_errors():
        yield from execute(run, progress)


def _keyword(name: str) -> str:
    """The name of a setting by any of its spellings.

    Raises:
        UsageError: there is no such setting.
    """
    if (known := spellings().get(name)) is not None:
        return known
    raise UsageError(
        f"txt2img() has no setting {name}",
        why=elsewhere(name) or did_you_mean(near(name, options())),
        fix="sdcli.settings.Settings has all of them.",
    )


@contextmanager
def _keywords_in_errors() -> Iterator[None]:
    """Name settings in errors by their keywords, not by their flags."""
    try:
        yield
    except SdcliError as error:
        for part in ("what", "why", "fix"):
            setattr(error, part, with_flags(getattr(error, part), lambda flag: spellings().get(spelling(flag), flag)))
        raise
