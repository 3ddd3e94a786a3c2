"""Names of samplers and schedules: the lists of other tools, with what each name stands for here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdcli.errors import UsageError
from sdcli.model_spec import NoiseSchedule
from sdcli.pipeline.samplers import Plan, k_diffusion, of_diffusers
from sdcli.registry import SAMPLERS
from sdcli.sampler_names import (
    SCHEDULES,
    is_lacking,
    key,
    nearest_sampler,
    nearest_schedule,
    own_schedule,
    plain,
    split,
)
from sdcli.settings import Settings

# Names, and the sampler and the schedule that they stand for; after ~ the nearest sampler to one that sdcli lacks.
TOOLS: Mapping[str, Mapping[str, str]] = {
    # modules/sd_samplers_kdiffusion.py, sd_samplers_extra.py, sd_samplers_timesteps.py and sd_samplers_lcm.py of
    # AUTOMATIC1111/stable-diffusion-webui, of 1.10 and, with the schedule in the name, before 1.9.
    "web UI": {
        "DPM++ 2M": "dpmpp_2m", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M SDE": "dpmpp_2m_sde",
        "DPM++ 2M SDE Heun": "~ dpmpp_2m_sde", "DPM++ 2S a": "~ dpmpp_2s", "DPM++ 3M SDE": "dpmpp_3m_sde",
        "Euler a": "euler_a", "Euler": "euler", "LMS": "lms", "Heun": "heun", "DPM2": "dpm2", "DPM2 a": "dpm2_a",
        "DPM fast": "~ dpmpp_2s", "DPM adaptive": "~ dpmpp_2m", "Restart": "~ heun", "DDIM": "ddim",
        "DDIM CFG++": "~ ddim", "PLMS": "plms", "UniPC": "unipc", "LCM": "lcm", "LMS Karras": "lms karras",
        "DPM2 Karras": "dpm2 karras", "DPM2 a Karras": "dpm2_a karras", "DPM++ 2S a Karras": "~ dpmpp_2s karras",
        "DPM++ 2M Karras": "dpmpp_2m karras", "DPM++ SDE Karras": "dpmpp_sde karras",
        "DPM++ 2M SDE Karras": "dpmpp_2m_sde karras", "DPM++ 2M SDE Exponential": "dpmpp_2m_sde exponential",
        "DPM++ 2M SDE Heun Karras": "~ dpmpp_2m_sde karras",
        "DPM++ 2M SDE Heun Exponential": "~ dpmpp_2m_sde exponential",
        "DPM++ 3M SDE Karras": "dpmpp_3m_sde karras", "DPM++ 3M SDE Exponential": "dpmpp_3m_sde exponential",
        "k_euler_a": "euler_a", "k_dpm_2_a_ka": "dpm2_a karras", "k_dpmpp_2m_ka": "dpmpp_2m karras",
        "k_dpmpp_2m_sde_exp": "dpmpp_2m_sde exponential", "k_dpm_ad": "~ dpmpp_2m",
    },
    # comfy/samplers.py of comfyanonymous/ComfyUI: KSAMPLER_NAMES and SAMPLER_NAMES. Those of Fooocus and SwarmUI are
    # among them.
    "ComfyUI": {
        "euler": "euler", "euler_cfg_pp": "~ euler", "euler_ancestral": "euler_a",
        "euler_ancestral_cfg_pp": "~ euler_a", "heun": "heun", "heunpp2": "~ heun", "exp_heun_2_x0": "~ heun",
        "exp_heun_2_x0_sde": "~ dpmpp_sde", "dpm_2": "dpm2", "dpm_2_ancestral": "dpm2_a", "lms": "lms",
        "dpm_fast": "~ dpmpp_2s", "dpm_adaptive": "~ dpmpp_2m", "dpmpp_2s_ancestral": "~ dpmpp_2s",
        "dpmpp_2s_ancestral_cfg_pp": "~ dpmpp_2s", "dpmpp_sde": "dpmpp_sde", "dpmpp_sde_gpu": "dpmpp_sde",
        "dpmpp_2m": "dpmpp_2m", "dpmpp_2m_cfg_pp": "~ dpmpp_2m", "dpmpp_2m_sde": "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "dpmpp_2m_sde_heun": "~ dpmpp_2m_sde",
        "dpmpp_2m_sde_heun_gpu": "~ dpmpp_2m_sde", "dpmpp_3m_sde": "dpmpp_3m_sde",
        "dpmpp_3m_sde_gpu": "dpmpp_3m_sde", "ddpm": "ddpm", "lcm": "lcm", "ipndm": "ipndm", "ipndm_v": "~ ipndm",
        "deis": "deis", "res_multistep": "~ dpmpp_2m", "res_multistep_cfg_pp": "~ dpmpp_2m",
        "res_multistep_ancestral": "~ dpmpp_2m_sde", "res_multistep_ancestral_cfg_pp": "~ dpmpp_2m_sde",
        "gradient_estimation": "~ euler", "gradient_estimation_cfg_pp": "~ euler", "er_sde": "~ dpmpp_3m_sde",
        "seeds_2": "~ dpmpp_sde", "seeds_3": "~ dpmpp_sde", "sa_solver": "sa_solver", "sa_solver_pece": "~ sa_solver",
        "ddim": "ddim", "uni_pc": "unipc", "uni_pc_bh2": "unipc",
        # As savers write them.
        "dpmpp_2m_sgm_uniform": "dpmpp_2m sgm_uniform", "euler_ddim_uniform": "euler leading",
        "euler_ancestral_normal": "euler_a linspace", "dpmpp_sde_align_your_steps": "dpmpp_sde align_your_steps",
    },
    # invokeai/backend/stable_diffusion/schedulers/schedulers.py of invoke-ai/InvokeAI: SCHEDULER_MAP, the last ones of
    # versions before 3.
    "InvokeAI": {
        "ddim": "ddim", "ddpm": "ddpm", "deis": "deis", "deis_k": "deis karras", "lms": "lms", "lms_k": "lms karras",
        "pndm": "plms", "heun": "heun", "heun_k": "heun karras", "euler": "euler", "euler_k": "euler karras",
        "euler_a": "euler_a", "kdpm_2": "dpm2", "kdpm_2_k": "dpm2 karras", "kdpm_2_a": "dpm2_a",
        "kdpm_2_a_k": "dpm2_a karras", "dpmpp_2s": "dpmpp_2s", "dpmpp_2s_k": "dpmpp_2s karras", "dpmpp_2m": "dpmpp_2m",
        "dpmpp_2m_k": "dpmpp_2m karras", "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_2m_sde_k": "dpmpp_2m_sde karras",
        "dpmpp_3m": "~ dpmpp_2m", "dpmpp_3m_k": "~ dpmpp_2m karras", "dpmpp_sde": "dpmpp_sde",
        "dpmpp_sde_k": "dpmpp_sde karras", "er_sde": "~ dpmpp_3m_sde", "unipc": "unipc", "unipc_k": "unipc karras",
        "lcm": "lcm", "tcd": "tcd", "k_lms": "lms", "plms": "plms", "k_euler": "euler", "k_euler_a": "euler_a",
        "k_dpm_2": "dpm2", "k_dpm_2_a": "dpm2_a", "k_heun": "heun", "k_dpmpp_2": "dpmpp_2m",
        "euler_karras": "euler karras",
    },
    # sample_method_to_str in leejet/stable-diffusion.cpp, alone and with the name of a schedule.
    "stable-diffusion.cpp": {
        "euler": "euler", "euler_a": "euler_a", "heun": "heun", "dpm2": "dpm2", "dpm++2s_a": "~ dpmpp_2s",
        "dpm++2m": "dpmpp_2m", "dpm++2mv2": "~ dpmpp_2m", "ipndm": "ipndm", "ipndm_v": "~ ipndm", "lcm": "lcm",
        "ddim_trailing": "ddim trailing", "tcd": "tcd", "res_multistep": "~ dpmpp_2m", "res_2s": "~ dpmpp_2s",
        "er_sde": "~ dpmpp_3m_sde", "euler_cfg_pp": "~ euler", "euler_a_cfg_pp": "~ euler_a", "euler_ge": "~ euler",
        "dpm++2m_sde": "dpmpp_2m_sde", "dpm++2m_sde_bt": "~ dpmpp_2m_sde", "lms": "lms",
        "dpm++2m karras": "dpmpp_2m karras", "euler_a discrete": "euler_a linspace", "dpm++2m gits": "dpmpp_2m gits",
    },
    # modules/sd_samplers_diffusers.py of vladmandic/sdnext, without those for models of flow matching.
    "SD.Next": {
        "UniPC": "unipc", "DDIM": "ddim", "Euler": "euler", "Euler a": "euler_a", "Euler SGM": "~ euler",
        "Euler EDM": "~ euler", "DPM++": "~ dpmpp_2m", "DPM++ 2M": "dpmpp_2m", "DPM++ 3M": "~ dpmpp_2m",
        "DPM++ 1S": "~ dpmpp_2s", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M SDE": "dpmpp_2m_sde", "DPM SDE": "dpmpp_sde",
        "DPM++ 2M EDM": "~ dpmpp_2m", "Heun": "heun", "DEIS": "deis", "SA Solver": "sa_solver", "DC Solver": "~ unipc",
        "TCD": "tcd", "TDD": "~ tcd", "PNDM": "plms", "IPNDM": "ipndm", "DDPM": "ddpm", "LMSD": "lms",
        "KDPM2": "dpm2", "KDPM2 a": "dpm2_a", "LCM": "lcm",
    },
    # SamplerType of Draw Things' configurations: names on its screen, and those of the schema.
    "Draw Things": {
        "DPM++ 2M Karras": "dpmpp_2m karras", "Euler A": "euler_a", "Euler Ancestral": "euler_a", "DDIM": "ddim",
        "PLMS": "plms", "DPM++ SDE Karras": "dpmpp_sde karras", "UniPC": "unipc", "LCM": "lcm",
        "Euler A Substep": "~ euler_a", "DPM++ SDE Substep": "~ dpmpp_sde", "TCD": "tcd",
        "Euler A Trailing": "euler_a trailing", "DPM++ SDE Trailing": "dpmpp_sde trailing",
        "DPM++ 2M AYS": "dpmpp_2m align_your_steps", "Euler A AYS": "euler_a align_your_steps",
        "DPM++ SDE AYS": "dpmpp_sde align_your_steps", "DPM++ 2M Trailing": "dpmpp_2m trailing",
        "DDIM Trailing": "ddim trailing", "UniPC Trailing": "unipc trailing", "UniPC AYS": "unipc align_your_steps",
        "TCD Trailing": "tcd trailing", "DPMPP2MKarras": "dpmpp_2m karras", "EulerAAYS": "euler_a align_your_steps",
    },
    # As they stand in NovelAI's images.
    "NovelAI": {
        "k_euler": "euler", "k_euler_ancestral": "euler_a", "k_dpmpp_2s_ancestral": "~ dpmpp_2s",
        "k_dpmpp_2m": "dpmpp_2m", "k_dpmpp_2m_sde": "dpmpp_2m_sde", "k_dpmpp_sde": "dpmpp_sde", "k_dpm_2": "dpm2",
        "k_dpm_fast": "~ dpmpp_2s", "ddim": "ddim", "ddim_v3": "~ ddim", "plms": "plms",
    },
    # sdkit/generate/sampler of easydiffusion/sdkit.
    "Easy Diffusion": {
        "plms": "plms", "ddim": "ddim", "heun": "heun", "euler": "euler", "euler_a": "euler_a", "dpm2": "dpm2",
        "dpm2_a": "dpm2_a", "lms": "lms", "dpm_solver_stability": "dpm_solver", "dpmpp_2s_a": "~ dpmpp_2s",
        "dpmpp_2m": "dpmpp_2m", "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_sde": "dpmpp_sde", "dpm_fast": "~ dpmpp_2s",
        "dpm_adaptive": "~ dpmpp_2m", "ddpm": "ddpm", "deis": "deis", "unipc_tu": "unipc", "unipc_snr": "~ unipc",
        "unipc_tq": "~ unipc", "unipc_snr_2": "~ unipc", "unipc_tu_2": "~ unipc", "euler-ancestral": "euler_a",
        "DPM++ 2m SDE (Karras)": "dpmpp_2m_sde karras",
    },
    # library/train_util.py of kohya-ss/sd-scripts.
    "kohya": {
        "ddim": "ddim", "pndm": "plms", "lms": "lms", "euler": "euler", "euler_a": "euler_a", "heun": "heun",
        "dpm_2": "dpm2", "dpm_2_a": "dpm2_a", "dpmsolver": "dpm_solver", "dpmsolver++": "dpmpp_2m",
        "dpmsingle": "dpmpp_2s", "k_lms": "lms", "k_euler": "euler", "k_euler_a": "euler_a", "k_dpm_2": "dpm2",
        "k_dpm_2_a": "dpm2_a",
    },
    # docs/source/en/api/schedulers/overview.md of huggingface/diffusers: the names of A1111 and k-diffusion.
    "diffusers": {
        "DDIMScheduler": "ddim", "PNDMScheduler": "plms", "DDPMScheduler": "ddpm", "LMSDiscreteScheduler": "lms",
        "EulerDiscreteScheduler": "euler", "EulerAncestralDiscreteScheduler": "euler_a",
        "HeunDiscreteScheduler": "heun", "KDPM2DiscreteScheduler": "dpm2", "KDPM2AncestralDiscreteScheduler": "dpm2_a",
        "DPMSolverMultistepScheduler": "dpmpp_2m", "DPMSolverSinglestepScheduler": "dpmpp_2s",
        "DPMSolverSDEScheduler": "dpmpp_sde", "UniPCMultistepScheduler": "unipc", "DEISMultistepScheduler": "deis",
        "IPNDMScheduler": "ipndm", "SASolverScheduler": "sa_solver", "LCMScheduler": "lcm", "TCDScheduler": "tcd",
        "EULER_ANCESTRAL_DISCRETE": "euler_a linspace",
    },
}  # fmt: skip

# Names, and the schedule that they stand for; after ~ the nearest one.
OF_SCHEDULES: Mapping[str, Mapping[str, str]] = {
    # modules/sd_schedulers.py of AUTOMATIC1111/stable-diffusion-webui and of lllyasviel/stable-diffusion-webui-forge.
    "web UI": {
        "Automatic": "auto", "Uniform": "linspace", "Karras": "karras", "Exponential": "exponential",
        "Polyexponential": "exponential", "SGM Uniform": "sgm_uniform", "SGMUniform": "sgm_uniform",
        "KL Optimal": "~ align_your_steps", "Align Your Steps": "align_your_steps", "Simple": "trailing",
        "Normal": "linspace", "DDIM": "leading", "Beta": "beta", "Turbo": "~ trailing",
        "Align Your Steps GITS": "~ exponential", "Align Your Steps 11": "~ align_your_steps",
    },
    # SCHEDULER_HANDLERS of ComfyUI, and what Fooocus and SwarmUI add.
    "ComfyUI": {
        "normal": "linspace", "simple": "trailing", "karras": "karras", "exponential": "exponential",
        "sgm_uniform": "sgm_uniform", "ddim_uniform": "leading", "linear_quadratic": "~ beta",
        "kl_optimal": "~ align_your_steps", "turbo": "~ trailing", "align_your_steps": "align_your_steps",
        "ComfyUI beta": "~ trailing",
    },
    "stable-diffusion.cpp": {
        "default": "auto", "discrete": "linspace", "karras": "karras", "exponential": "exponential",
        "ays": "align_your_steps", "gits": "~ exponential", "sgm_uniform": "sgm_uniform", "simple": "trailing",
        "smoothstep": "~ align_your_steps", "kl_optimal": "~ align_your_steps",
    },
    "NovelAI": {"native": "linspace", "karras": "karras", "exponential": "exponential",
                "polyexponential": "exponential"},
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_samplers_of_other_tools(tool: str) -> None:
    found = {}
    for name in TOOLS[tool]:
        sampler, schedule = split(name)
        own = sampler if sampler in SAMPLERS else f"~ {nearest_sampler(name)}"
        found[name] = " ".join(filter(None, (own, schedule)))
    assert found == TOOLS[tool]


@pytest.mark.parametrize("tool", OF_SCHEDULES)
def test_schedules_of_other_tools(tool: str) -> None:
    found = {name: own_schedule(name) or f"~ {nearest_schedule(name)}" for name in OF_SCHEDULES[tool]}
    assert found == OF_SCHEDULES[tool]


def test_a_name_stands_for_one_sampler() -> None:
    names = [{key(each) for each in (own, row.title, *row.aliases)} for own, row in SAMPLERS.items()]
    assert sum(map(len, names)) == len(set().union(*names))
    assert "" not in set().union(*names)
    schedules = [{plain(each) for each in (own, *others)} for own, others in SCHEDULES.items()]
    assert sum(map(len, schedules)) == len(set().union(*schedules))


def test_every_sampler_has_its_own_names() -> None:
    for own, row in SAMPLERS.items():
        for name in (own, row.title, row.title.upper(), f"k_{own}", own.replace("_", " "), *row.aliases):
            assert split(name) == (own, None)
            for schedule, others in SCHEDULES.items():
                # ddim_uniform is the name of a schedule.
                for each in {schedule, *others} - ({"Uniform"} if own == "ddim" else set()):
                    assert split(f"{name} {each}") == (own, schedule)
                    assert split(f"{name}_{each.lower()}") == (own, schedule)


@given(st.text() | st.sampled_from(["kkeuler", "euler_gpu_gpu", "++"]))
def test_a_short_name_is_its_own_short_name(name: str) -> None:
    assert plain(plain(name)) == plain(name)
    assert key(key(name)) == key(name)
    sampler, schedule = split(name)
    assert sampler in SAMPLERS or sampler in name
    assert schedule is None or schedule in SCHEDULES or schedule in name


@pytest.mark.parametrize("name", ["", " ", "_", "karras", "ddim_uniform", "Default", "euler" + " " * 300, "x" * 10**6])
def test_names_of_no_sampler(name: str) -> None:
    assert split(name) == (name, None)


def test_what_is_known_to_be_lacking() -> None:
    assert is_lacking("DPM++ 2S a Karras")
    assert is_lacking("kl_optimal")
    assert not is_lacking("euler")
    assert nearest_sampler("nonsense") is None
    assert nearest_schedule("nonsense") is None


class TestErrors:
    """What a message says about a name that sdcli does not have."""

    @pytest.mark.parametrize(
        ("name", "value", "why"),
        [
            ("sampler", "DPM++ 2S a Karras", "sdcli does not have it; the nearest is dpmpp_2s."),
            ("sampler", "res_multistep", "sdcli does not have it; the nearest is dpmpp_2m."),
            ("sampler", "eulr", "Did you mean euler?"),
            ("sampler", "Karras", "It is a schedule: --schedule karras."),
            ("sampler", "nonsense", ""),
            ("schedule", "kl_optimal", "sdcli does not have it; the nearest is align_your_steps."),
            ("schedule", "karas", "Did you mean karras?"),
            ("schedule", "UniPCMultistepScheduler", "It is a sampler: --sampler unipc."),
            ("schedule", "dpmpp_2m_k", "It is a sampler: --sampler dpmpp_2m."),
        ],
    )
    def test_a_suggestion(self, name: str, value: str, why: str) -> None:
        with pytest.raises(UsageError) as caught:
            Settings.of(**{name: value})
        assert (caught.value.what, caught.value.why) == (f"--{name} {value!r} is not valid", why)

    def test_two_schedules(self) -> None:
        with pytest.raises(UsageError) as caught:
            Settings.of(sampler="DPM++ 2M Karras", schedule="exponential")
        assert caught.value.what == "--sampler 'DPM++ 2M Karras' contradicts --schedule exponential"
        assert set(caught.value.settings) == {"sampler", "schedule"}
        same = Settings.of(sampler="DPM++ 2M Karras", schedule="Karras")
        assert (same.sampler, same.schedule) == ("dpmpp_2m", "karras")


STEPS = 20
SPEC = NoiseSchedule(spacing_is_given=False)
_BARS = np.cumprod(1 - np.linspace(SPEC.beta_start**0.5, SPEC.beta_end**0.5, 1000) ** 2)
_SIGMAS = ((1 - _BARS) / _BARS) ** 0.5
_SMALLEST, _LARGEST = _SIGMAS[0], _SIGMAS[-1]
_ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_GITS = (14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029)


def _at(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """k-diffusion's sigma of a timestep."""
    return np.exp(np.interp(times, np.arange(1000), np.log(_SIGMAS)))


_RAMP = np.linspace(0, 1, STEPS)
# The formulas of the other tools: k-diffusion and its schedules in the web UI, and ComfyUI.
FORMULAS: Mapping[str, NDArray[np.float64]] = {
    "Uniform": _at(np.linspace(999, 0, STEPS)),
    "normal": _at(np.linspace(999, 0, STEPS)),
    "simple": np.array([_SIGMAS[-(1 + int(step * 1000 / STEPS))] for step in range(STEPS)]),
    "ddim_uniform": _SIGMAS[1 :: 1000 // STEPS][::-1],
    "sgm_uniform": _at(np.linspace(999, 0, STEPS + 1)[:-1]),
    "Karras": (_LARGEST ** (1 / 7) + _RAMP * (_SMALLEST ** (1 / 7) - _LARGEST ** (1 / 7))) ** 7,
    "Exponential": np.exp(np.linspace(np.log(_LARGEST), np.log(_SMALLEST), STEPS)),
    "Polyexponential": np.exp((1 - _RAMP) * np.log(_LARGEST / _SMALLEST) + np.log(_SMALLEST)),
    "Beta": _SMALLEST + scipy.stats.beta.ppf(1 - _RAMP, 0.6, 0.6) * (_LARGEST - _SMALLEST),
    "ays": np.exp(np.interp(np.arange(STEPS) / STEPS, np.arange(11) / 10, np.log(_ALIGN_YOUR_STEPS))),
}
_WITHOUT_END = np.arange(STEPS) / STEPS
OTHER_FORMULAS: Mapping[str, NDArray[np.float64]] = {
    "ComfyUI beta": _SIGMAS[np.rint(scipy.stats.beta.ppf(1 - _WITHOUT_END, 0.6, 0.6) * 999).astype(int)],
    "KL Optimal": np.tan(_WITHOUT_END * np.arctan(_SMALLEST) + (1 - _WITHOUT_END) * np.arctan(_LARGEST)),
    "kl_optimal": np.tan(_RAMP * np.arctan(_SMALLEST) + (1 - _RAMP) * np.arctan(_LARGEST)),
    "gits": np.exp(np.interp(_WITHOUT_END, np.arange(11) / 10, np.log(_GITS))),
    "smoothstep": _at(999 * (1 - _WITHOUT_END) ** 2 * (1 + 2 * _WITHOUT_END)),
}


def own_sigmas(schedule: str) -> NDArray[np.float64]:
    made = of_diffusers.make(k_diffusion.EULER_SCHEDULER, Plan(STEPS, schedule), SPEC)
    return np.asarray(made.sigmas.numpy()[:-1], dtype=np.float64)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_schedule_has_the_sigmas_of_the_other_tool(name: str) -> None:
    np.testing.assert_allclose(own_sigmas(own_schedule(name) or ""), FORMULAS[name], rtol=1e-3)


@pytest.mark.parametrize("name", OTHER_FORMULAS)
def test_no_schedule_is_nearer_than_the_nearest(name: str) -> None:
    def distance(schedule: str) -> float:
        return float(np.mean((np.log(own_sigmas(schedule)) - np.log(OTHER_FORMULAS[name])) ** 2))

    distances = {schedule: distance(schedule) for schedule in SCHEDULES if schedule != "auto"}
    assert min(distances, key=distances.__getitem__) == nearest_schedule(name)
