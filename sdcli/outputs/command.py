"""The shell command that generates an image again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdcli.jobs import Job, at_home
from sdcli.prompts.templates import is_plain
from sdcli.settings import Settings, flags, lists, names
from sdcli.terminal import printable

_PLAIN = re.compile(r"[A-Za-z0-9_./:,+-]+")
"""A word that needs no quotes. Not `=`, `%` and `@`: zsh expands `=ls`, fish `%self`."""

_ESCAPED = "control characters are written as escapes"


def command_line(
    job: Job, settings: Settings | None = None, file: Path | None = None, *, reads_same: bool = True
) -> str:
    """The `sdcli txt2img` command that generates the job's image, quoted for any shell but csh.

    It names seed, size, steps, sampler and guidance scale, and every other setting that differs from its default. The
    noise of an image follows that of the images before it in its run, so the command may have to generate these, too.
    Then a second line, a comment, says which image it is, or that no command generates it. The comment is on its own
    line because zsh takes no comment after a command that is typed in. It has no character that a shell could obey.

    Control characters of a prompt become escapes, because a terminal would obey them and not every shell can quote
    them. Then the command generates another image, and the comment says so.

    Args:
        job: the image.
        settings: those of its run, for what the job does not contain: where the model is, device, safety, watermark.
            Without them the model has the name that the job has: for a checkpoint its file name.
        file: the image. If no run repeats it, the command is `sdcli rerun FILE` instead.
        reads_same: whether the model's vocabulary reads the prompt as the job says.
    """
    values = job.model_dump(include=set(names("image")))
    if settings is None:
        values |= _model(job)
    else:
        beside = {*names(rerun=True), *names(recorded=True)} - values.keys()
        values |= {name: getattr(settings, name) for name in (*beside, "any_words")}
    samples, iterations, exact = _batches(job)
    repeatable = True
    comment = f"# image {(iterations - 1) * samples + job.noise.row + 1} of those that this command generates"
    if samples == iterations == 1:
        comment = ""
    if not exact and settings is not None and settings.from_file not in (None, "-"):
        # The whole run: the settings of a row are in the prompt file.
        values |= {name: getattr(settings, name) for name in names("image", "run")}
        samples, iterations = settings.n_samples, settings.n_iter
        comment = f"# image {job.index + 1} of those that this command generates"
    else:
        # The choices of the template are made; characters that look like a choice are not to be read as one.
        values["compat"] = not is_plain(printable(job.prompt))
        repeatable = exact
        if not exact:
            comment = "# not the same image, which follows batches of several sizes: use sdcli rerun for that"
    if not reads_same:
        repeatable = False
        comment = "# not the same image, because this version reads the prompt in another way: use sdcli rerun for that"
    values |= {"n_samples": samples, "n_iter": iterations, "fixed_code": job.noise.fixed_rows > 0}
    command, as_is = _command(values)
    if not as_is:
        comment = f"# not the same image, because {_ESCAPED}: use sdcli rerun FILE for that"
    elif not repeatable and file is not None and printable(str(file)) == str(file):
        return f"sdcli rerun {_quoted(f'./{file}' if str(file).startswith('-') else str(file))}"
    return "\n".join(filter(None, (command, comment)))


def command_of(values: Mapping[str, Any]) -> str:
    """The `sdcli txt2img` command with these settings, by name, without those at their defaults.

    If control characters become escapes, a second line, a comment, says so.
    """
    command, as_is = _command(values)
    return command if as_is else f"{command}\n# not exact, because {_ESCAPED}"


def _command(values: Mapping[str, Any]) -> tuple[str, bool]:
    """The command with these settings, and whether it contains every value as it is."""
    as_is = True
    words = ["sdcli", "txt2img"]
    for name, line, default, _ in flags():
        value = values.get(name, default)
        several = list(value) if line.repeats else values.get(lists().get(name, "")) or [value]
        if name == "seed" and len(several) > 1:
            several = [",".join(map(str, several))]
        # A switch that stands for other settings is not needed beside them.
        if value is None or (line.stands_for and line.stands_for.keys() <= values.keys()):
            continue
        if several not in ([default], [*default] if line.repeats else None) or (line.always_shown and name in values):
            shown = line.names[0]
            texts = [printable(str(one)) for one in several]
            as_is = as_is and texts == [*map(str, several)]
            words += [shown] if value is True else [with_value(bool(line.path), shown, text) for text in texts]
    return " ".join(words), as_is


def with_value(is_path: bool, flag: str, value: str) -> str:
    """A flag and its value, quoted for the shell."""
    # Others may read the command, and the name of the home folder may name a person.
    if is_path and (path := at_home(value)).startswith("~/"):
        return f"{flag} ~/{_quoted(path.removeprefix('~/'))}"
    # A value that begins with a dash must not be read as a flag.
    return f"{flag}={_quoted(value)}" if value.startswith("-") else f"{flag} {_quoted(value)}"


def _quoted(word: str) -> str:
    """A word for the shell, the same in dash, bash, zsh, fish, yash, mksh and busybox.

    Quotes and backslashes stay outside of single quotes, because a backslash inside them means something in fish only.
    The forms in which a shell reads escapes, such as $'...', are not used: some shells do not know them.
    """
    if _PLAIN.fullmatch(word):
        return word
    parts = filter(None, re.split(r"(['\\])", word))
    return "".join(f"\\{part}" if part in ("'", "\\") else f"'{part}'" for part in parts) or "''"


def _model(job: Job) -> dict[str, Any]:
    """The setting that names the model, as far as the job's name for it says."""
    if job.model == "builtin":
        return {}
    return {"ckpt" if job.model.endswith((".ckpt", ".safetensors")) else "model": job.model}


def _batches(job: Job) -> tuple[int, int, bool]:
    """The smallest `n_samples` and `n_iter` that reach the image's noise, and whether they reach it exactly."""
    noise = job.noise
    # The numbers that a CUDA device draws for a row do not depend on the rows after it.
    samples = noise.row + 1 if job.rng == "cuda" else noise.rows
    first = noise.before == (((noise.fixed_rows, 1),) if noise.fixed_rows else ())
    one_size = len({rows for rows, _ in noise.before} | {noise.rows}) == 1
    if first:
        return samples, 1, one_size or job.rng == "cuda"
    batches = job.index // noise.rows
    draws = sum(times for _, times in noise.before) - bool(noise.fixed_rows)
    return samples, batches + 1, one_size and batches > 0 and draws % batches == 0
