"""Names of samplers and schedules in other tools, and the samplers and schedules of sdcli that they stand for.

The names of a sampler are its own, its title and the aliases in its row; those of a schedule are in `SCHEDULES`. A name
may stand for a sampler and a schedule: "DPM++ 2M Karras".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from sdcli.registry import SAMPLERS

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "auto": ("Automatic", "default"),
    "leading": ("DDIM", "ddim_uniform"),
    "linspace": ("Uniform", "normal", "discrete", "native"),
    "trailing": ("Simple",),
    "karras": ("Karras", "k", "ka"),
    "exponential": ("Exponential", "exp", "polyexponential"),
    "beta": ("Beta",),
    "sgm_uniform": ("SGM Uniform",),
    "align_your_steps": ("Align Your Steps", "ays"),
}
"""Values of `--schedule`, each with its names in other tools; the first is the one of AUTOMATIC1111's web UI. Which of
them a sampler takes is in its `Sampler.schedules`. Polyexponential with its default exponent is exponential."""

COMFYUI_BETA = "ComfyUI beta"
"""ComfyUI's schedule `beta`: quantiles of the timesteps. Those of diffusers and the web UI are quantiles of sigma."""

_LACKING = {
    "DPM++ 2S a": "dpmpp_2s", "dpmpp_2s_ancestral": "dpmpp_2s", "DPM++ 1S": "dpmpp_2s", "DPM fast": "dpmpp_2s",
    "DPM adaptive": "dpmpp_2m", "dpm_ad": "dpmpp_2m", "DPM++": "dpmpp_2m", "DPM++ 3M": "dpmpp_2m", "Restart": "heun",
    "HeunPP2": "heun", "ipndm_v": "ipndm", "res_multistep": "dpmpp_2m", "res_multistep_ancestral": "dpmpp_2m_sde",
    "res_2s": "dpmpp_2s", "gradient_estimation": "euler", "er_sde": "dpmpp_3m_sde", "seeds_2": "dpmpp_sde",
    "seeds_3": "dpmpp_sde", "exp_heun_2_x0": "heun", "exp_heun_2_x0_sde": "dpmpp_sde", "DC Solver": "unipc",
    "TDD": "tcd",
}  # fmt: skip
"""Samplers of other tools that sdcli lacks, and the nearest that it has: of the same order, with noise if they have it.
Variants whose names begin with that of a sampler, such as `euler_cfg_pp`, are nearest to it."""
_LACKING_SCHEDULES = {
    "kl_optimal": "align_your_steps", "linear_quadratic": "beta", "gits": "exponential",
    "align_your_steps_gits": "exponential", "smoothstep": "align_your_steps", "turbo": "trailing",
    "SDTurbo": "trailing", COMFYUI_BETA: "trailing", "BetaSampling": "trailing",
}  # fmt: skip
"""The same for schedules, by the distance of the logarithms of their sigmas with 20 steps and the betas of Stable
Diffusion 1."""
_SHORTEST = 4
"""Characters of the name of a sampler that begins those of its variants. `dpm` begins those of others."""
_LONGEST = 200
"""Characters of a name that is read."""
_MOST_WORDS = 3
"""Words of the name of a schedule."""
_WORD = re.compile(r"[^\s_(),/-]+")


def plain(name: str) -> str:
    """A name without capitals, spaces and punctuation, and with a `p` for each `+`; empty if it is too long for one."""
    return re.sub(r"[\W_]", "", name.casefold().replace("+", "p")) if len(name) <= _LONGEST else ""


def key(name: str) -> str:
    """The plain name of a sampler without the parts that only say where it comes from.

    These are the `k_` of k-diffusion and the `_gpu` of ComfyUI, where the noise is drawn.
    """
    found = re.fullmatch(r"k*(.*?)(?:gpu)*", plain(name))
    return found[1] if found else ""


def sampler_title(name: str) -> str:
    """The name that other tools show for a value of `--sampler`."""
    found = SAMPLERS.get(name)
    return str(found.title) if found else name.capitalize()


def _samplers() -> Mapping[str, str]:
    """The names of the samplers by the keys of all their names."""
    return _by_key(tuple(SAMPLERS.paths.items()))


@cache
def _by_key(_: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return {key(each): own for own, row in SAMPLERS.items() for each in (own, row.title, *row.aliases)}


_SCHEDULES = {plain(each): own for own, others in SCHEDULES.items() for each in (own, *others)}
_NEAREST_SCHEDULES = {plain(each): own for each, own in _LACKING_SCHEDULES.items()}


def own_schedule(name: str) -> str | None:
    """The value of `--schedule` that a name stands for; None if it stands for none."""
    return _SCHEDULES.get(plain(name))


def split(name: str) -> tuple[str, str | None]:
    """The sampler and the schedule that a name stands for.

    Args:
        name: the name of a sampler in any tool, with or without the name of a schedule after it.

    Returns:
        The name of the sampler in `SAMPLERS`, and the schedule, one of `SCHEDULES`. For what sdcli does not have, that
        part of the name; None if the name has no schedule.
    """
    samplers, schedules = _samplers(), _SCHEDULES.keys() | _NEAREST_SCHEDULES.keys()
    if (whole := samplers.get(key(name))) or plain(name) in schedules or len(name) > _LONGEST:
        return whole or name, None
    words = list(_WORD.finditer(name))
    for count in range(min(_MOST_WORDS, len(words) - 1), 0, -1):
        first = words[-count].start()
        last = plain(name[first:])
        text = name[:first].rstrip(" _(,/-")
        own = samplers.get(key(text))
        if last in schedules and (own or last not in samplers):
            return own or text, _SCHEDULES.get(last, name[first:].rstrip(")"))
    # Names without separators: DPMPP2MKarras.
    together = key(name)
    for last in sorted(_SCHEDULES, key=len, reverse=True):
        if together.endswith(last) and (own := samplers.get(together.removesuffix(last))):
            return own, _SCHEDULES[last]
    return name, None


def nearest_sampler(name: str) -> str | None:
    """The sampler of sdcli that is nearest to one that it does not have; None if that is not known."""
    known = {**_samplers(), **{key(each): own for each, own in _LACKING.items()}}
    return _longest_start(key(split(name)[0]), known)


def nearest_schedule(name: str) -> str | None:
    """The schedule of sdcli that is nearest to one that it does not have; None if that is not known."""
    return _longest_start(plain(name), {**_SCHEDULES, **_NEAREST_SCHEDULES})


def is_lacking(name: str) -> bool:
    """Whether a name is known as that of a sampler or a schedule that sdcli does not have."""
    return key(split(name)[0]) in map(key, _LACKING) or plain(name) in _NEAREST_SCHEDULES


def _longest_start(name: str, known: Mapping[str, str]) -> str | None:
    """The value of the longest of the known names that a name begins with; the whole name may be short."""
    starts = [each for each in known if each == name or (len(each) >= _SHORTEST and name.startswith(each))]
    return known[max(starts, key=len)] if starts else None
