"""An image as the shell command that draws it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from sdcli.jobs import Job
from sdcli.records import at_home
from sdcli.settings import MODEL, PROMPT, SIZE, STAGES, Settings, flags
from sdcli.terminal import printable

_ALWAYS = {"seed", "height", "width", "n_iter"}
_PATHS = {"from_file", "wildcards", "model", "ckpt", "config", "safety_model"}


def command_line(job: Job, settings: Settings | None = None) -> str:
    """The `sdcli txt2img` command that draws the job's image, quoted for a POSIX shell.

    It says seed, size and guidance scale, and of the rest what differs from the defaults. An image's noise comes after
    that of the images before it in its run, so the command may have to draw these too; a second line, a comment, then
    tells which of them is the image, or that flags do not lead to it. The comment has a line of its own because zsh
    takes none behind a command that is typed in.

    Args:
        job: the image.
        settings: those of its run, for what a job does not hold: where its model lies, device, safety, watermark.
            Without them the model is named as the job names it: a checkpoint by its file name alone.
    """
    values = job.model_dump(include=set(Settings.model_fields) - {"model"})
    if settings is None:
        values |= _model(job)
    else:
        values |= {name: getattr(settings, name) for name, flag, *_ in flags() if flag.panel in (MODEL, STAGES)}
    samples, iterations, exact = _batches(job)
    comment = f"# image {(iterations - 1) * samples + job.noise.row + 1} of those that this draws"
    if samples == iterations == 1:
        comment = ""
    if not exact and settings is not None and settings.from_file not in (None, "-"):
        # The whole run, less where its files go: what a row says stays in the prompt file.
        values |= {name: getattr(settings, name) for name, flag, *_ in flags() if flag.panel in (PROMPT, SIZE)}
        values |= {"seed_mode": settings.seed_mode}
        samples, iterations = settings.n_samples, settings.n_iter
        comment = f"# image {job.index + 1} of those that this draws"
    else:
        # The choices in the prompt are made; what looks like one is not to be made again.
        values["compat"] = any(sign in job.prompt for sign in ("{", "__", "\\"))
        if not exact:
            comment = "# not the same image, which comes after batches of several sizes: sdcli rerun draws that"
    values |= {"n_samples": samples, "n_iter": iterations, "fixed_code": job.noise.fixed_rows > 0}
    return "\n".join(filter(None, (command_of(values), comment)))


def command_of(values: Mapping[str, Any]) -> str:
    """The `sdcli txt2img` command with these settings, by their names; those that are defaults are left out."""
    words = ["sdcli", "txt2img"]
    for name, flag, default, _ in flags():
        value = values.get(name, default)
        if value is not None and (value != default or (name in _ALWAYS and name in values)):
            words.append(flag.names[0] if value is True else _with_value(name, flag.names[0], str(value)))
    return " ".join(words)


def _with_value(name: str, flag: str, value: str) -> str:
    # Others may see the command, and the home folder's name is nobody's business.
    if name in _PATHS and (path := at_home(value)).startswith("~/"):
        return f"{flag} ~/{_quoted(path.removeprefix('~/'))}"
    # A value that begins like a flag must not be taken for one.
    return f"{flag}={_quoted(value)}" if value.startswith("-") else f"{flag} {_quoted(value)}"


def _quoted(word: str) -> str:
    """A word for the shell. Control characters become escapes: the terminal that shows the command would obey them."""
    if printable(word) == word:
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(plain)}'"


def _model(job: Job) -> dict[str, Any]:
    """The model's flag, as far as its name in records tells."""
    if job.model == "builtin":
        return {}
    return {"ckpt" if job.model.endswith((".ckpt", ".safetensors")) else "model": job.model}


def _batches(job: Job) -> tuple[int, int, bool]:
    """The fewest `n_samples` and `n_iter` that come to the image's noise, and whether they do."""
    noise = job.noise
    # The numbers that a CUDA card draws for a row do not depend on the rows after it.
    samples = noise.row + 1 if job.rng == "cuda" else noise.rows
    first = noise.before == (((noise.fixed_rows, 1),) if noise.fixed_rows else ())
    one_size = len({rows for rows, _ in noise.before} | {noise.rows}) == 1
    if first:
        return samples, 1, one_size or job.rng == "cuda"
    return samples, job.index // noise.rows + 1, one_size
