"""`sdcli txt2img --dry-run`: what would be drawn, as paths or JSON Lines; the rest goes to standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcli.cli.console import Console, RunConsole, standard_output
from sdcli.errors import SkippedError
from sdcli.settings import Settings
from sdcli.terminal import json_line

if TYPE_CHECKING:
    from sdcli.dry_run import DryRun, Forecast


def show(settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """Tell of each image, then of the whole.

    Raises:
        sdcli.errors.SdcliError: as drawing, for all that is known before the model loads.
    """
    from sdcli.dry_run import DryRun

    console = Console(quiet)
    run = DryRun(settings, RunConsole(quiet=quiet, as_json=as_json))
    for forecast in run:
        with standard_output():
            if as_json:
                print(json_line(_values(forecast)))
            elif forecast.file is not None and not forecast.there:
                print(forecast.file, flush=True)
        if not as_json:
            console.indented(_words(forecast))
    with standard_output():
        print(end="", flush=True)
    for line in _summary(run):
        console.line(line)
    if run.run.skipped:
        raise SkippedError(run.run.skipped, 0)


def _values(forecast: Forecast) -> dict[str, Any]:
    """An image as a line of JSON."""
    words, mark = forecast.words, forecast.mark
    return {
        "index": forecast.job.index,
        "file": None if forecast.file is None else str(forecast.file),
        "there": forecast.there,
        "tokens": words.tokens,
        "tokens_read": words.limit,
        "words_cut": words.cut or None,
        "watermark": None if mark is None else {"text": mark.text, "method": mark.method},
        "job": forecast.job.model_dump(mode="json"),
    }


def _words(forecast: Forecast) -> str:
    """An image in words: its prompt, with what the model does not read in brackets, and how it is drawn."""
    job, words = forecast.job, forecast.words
    prompt = job.prompt
    if words.cut:
        kept = prompt.rstrip().removesuffix(words.cut).rstrip()
        prompt = f"{kept} [not read: {words.cut}]"
    facts = [
        "there already" if forecast.there else "",
        f"seed {job.seed}",
        f"{job.width} x {job.height}",
        f"{words.tokens} of {words.limit} tokens",
        f"watermark {forecast.mark.method}" if forecast.mark else "no watermark",
    ]
    return f"{prompt} ({', '.join(filter(None, facts))})"


def _summary(run: DryRun) -> list[str]:
    """The whole run in a few lines."""
    settings, spec = run.settings, run.run.spec
    left = run.images - run.there
    images = "1 image" if left == 1 else f"{left} images"
    lines = [f"a dry run: {images} would be drawn with {spec.name}, {settings.sampler}"]
    if run.there:
        lines[0] += f"; {run.there} are there already"
    if not (settings.skip_grid or settings.output):
        lines.append(f"then a grid in {settings.outdir}, in pages if it is large")
    if run.weights is None:
        lines.append(f"the weights of {spec.name} are not on this machine: they would be fetched first")
    if run.largest is not None:
        memory = run.largest.memory
        how = "as measured" if run.largest.measured else "reckoned from weights and size"
        lines.append("memory: not known" if memory is None else f"memory: about {memory / 1e9:.1f} GB, {how}")
        time = "not known, as this model has not drawn on this machine yet"
        lines.append(f"time: {time if run.seconds is None else _duration(run.seconds) + ', by what earlier runs took'}")
    return lines


def _duration(seconds: float) -> str:
    """About how long, in the unit that suits."""
    if seconds < 90:
        return f"about {seconds:.0f} seconds"
    minutes = seconds / 60
    return f"about {minutes:.0f} minutes" if minutes < 90 else f"about {minutes / 60:.1f} hours"
