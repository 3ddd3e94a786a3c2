"""`sdcli txt2img --dry-run`: what would be generated, as paths or JSON Lines; the rest goes to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sdcli.cli.console import Console, RunConsole, all_exist, duration, plural
from sdcli.errors import SkippedError
from sdcli.settings import AUTO, Settings
from sdcli.terminal import json_line, one_line

if TYPE_CHECKING:
    from sdcli.dry_run import DryRun, Forecast


def show(settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """Print each image, then a summary.

    Raises:
        sdcli.errors.SdcliError: as a real run, for everything that is known before the model loads.
    """
    from sdcli.dry_run import DryRun

    console = Console(quiet)
    run = DryRun(settings, RunConsole(quiet=quiet, as_json=as_json))
    for forecast in run:
        if as_json:
            print(json_line(_values(forecast)))
        elif forecast.file is not None and not forecast.exists:
            print(one_line(str(forecast.file)), flush=True)
        if not as_json:
            console.indented(_in_words(forecast))
            for line in _encoded(forecast):
                console.indented(f"  {line}")
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
        "there": forecast.exists,
        "tokens": words.tokens,
        "tokens_read": words.limit,
        "words_cut": words.cut or None,
        "chunks": words.chunks,
        "encoded": [asdict(each) for each in forecast.encoded],
        "reading": forecast.reading,
        "watermark": None if mark is None else {"text": mark.text, "method": mark.method},
        "job": forecast.job.model_dump(mode="json"),
    }


def _in_words(forecast: Forecast) -> str:
    """The prompt, with its unread end in brackets, and how the image would be generated."""
    job, words = forecast.job, forecast.words
    prompt = job.prompt
    if words.cut:
        read = prompt.rstrip().removesuffix(words.cut).rstrip()
        prompt = f"{read} [ignored: {words.cut}]"
    facts = [
        "" if job.read_as is None else f"read as {job.read_as!r}",
        "already exists" if forecast.exists else "",
        f"seed {job.seed}",
        f"{job.width} x {job.height}",
        f"{words.tokens} of {words.limit * words.chunks} tokens",
        f"{words.chunks} chunks" if words.chunks > 1 else "",
        f"watermark {forecast.mark.method}" if forecast.mark else "no watermark",
    ]
    return f"{prompt} ({', '.join(filter(None, facts))})"


def _encoded(forecast: Forecast) -> Iterator[str]:
    """A line for each text that is encoded, with its weights."""
    several = sum(not each.negative for each in forecast.encoded) > 1
    for each in forecast.encoded:
        if each.negative and not forecast.job.negative_prompt:
            continue
        number, weight = each.part
        facts = [
            "negative prompt" if each.negative else f"part {number}" if several else "prompt",
            f"x {weight:.4g}" if weight != 1 else "",
            f"share {each.share:.4g}" if each.share != 1 else "",
            f"to step {each.until}" if each.until < forecast.job.steps else "",
        ]
        chunks = (
            ", ".join(f"{text!r}" + (f" x {weight:.4g}" if weight != 1 else "") for text, weight in runs) or "''"
            for runs in each.chunks
        )
        yield f"{' '.join(filter(None, facts))}: {' / '.join(chunks)}"


def _summary(run: DryRun) -> list[str]:
    """The whole run in a few lines."""
    settings, spec = run.settings, run.run.spec
    missing = run.images - run.existing
    if run.images and not missing:
        return [f"dry run: {all_exist(run.images)}"]
    how = counts.in_words() if (counts := run.run.counts) and not run.existing else ""
    images = f"{how} = {plural(missing, 'image')}" if how else plural(missing, "image")
    sampler = run.run.settings.sampler
    sampler = "its own sampler" if sampler == AUTO else sampler
    lines = [f"dry run: {images} would be generated with {spec.name}, {sampler}"]
    if run.existing:
        lines[0] += f"; {run.existing} already exist"
    if settings.output is None and settings.has_grid(run.images):
        lines.append(f"then a grid in {settings.outdir}, in pages if it is large")
    if run.weights is None:
        lines.append(f"the weights of {spec.name} are not on this machine: they would be downloaded first")
    if run.largest is not None:
        memory = run.largest.memory
        how = "as measured in an earlier run" if run.largest.measured else "estimated from weights and size"
        lines.append("memory: unknown" if memory is None else f"memory: about {memory / 1e9:.1f} GB, {how}")
        unknown = "unknown, because this model has not run on this machine yet"
        lines.append(f"time: {unknown if run.seconds is None else _time(run.seconds, run.loading)}")
    return lines


def _time(seconds: float, loading: float) -> str:
    """The time of a run, with and without the time until its first batch."""
    of_loading = f"{duration(loading)} of it for loading" if loading else "without loading"
    return f"about {duration(seconds + loading)}, {of_loading}, as in earlier runs"
