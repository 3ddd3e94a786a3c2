"""Settings: the original's flags and defaults, and what is refused whatever the model is."""

import pytest

from sdcli.errors import UsageError
from sdcli.samplers import SAMPLERS
from sdcli.settings import Settings, flags

ORIGINAL = {
    "--prompt": "a painting of a virus monster playing guitar",
    "--outdir": "outputs/txt2img-samples",
    "--skip_grid": False,
    "--skip_save": False,
    "--ddim_steps": 50,
    "--plms": False,
    "--dpm_solver": False,
    "--laion400m": False,
    "--fixed_code": False,
    "--ddim_eta": 0.0,
    "--n_iter": 2,
    "--C": 4,
    "--f": 8,
    "--n_samples": 3,
    "--n_rows": 0,
    "--scale": 7.5,
    "--from-file": None,
    "--config": "configs/stable-diffusion/v1-inference.yaml",
    "--ckpt": "models/ldm/stable-diffusion-v1/model.ckpt",
    "--seed": 42,
    "--precision": "autocast",
}
"""Flags of `scripts/txt2img.py` and their defaults; --H and --W are 512 there, see `test_jobs.py`."""


def test_every_flag_of_the_original_with_its_default() -> None:
    ours = {flag.names[0]: default for _, flag, default, _ in flags()}
    assert {name: ours[name] for name in ORIGINAL} == ORIGINAL
    assert {"--H", "--W"} <= ours.keys()


def test_flags_are_spelt_once() -> None:
    names = [name.replace("-", "_") for _, flag, _, _ in flags() for name in flag.names]
    assert len(names) == len(set(names))


def test_every_sampler_that_can_be_named_is_there() -> None:
    choices = {name: choices for name, _, _, choices in flags()}
    assert set(choices["sampler"]) == set(SAMPLERS)


@pytest.mark.parametrize(
    ("given", "sampler"),
    [
        ({}, "ddim"),
        ({"plms": True}, "plms"),
        ({"dpm_solver": True}, "dpm_solver"),
        ({"plms": True, "dpm_solver": True}, "dpm_solver"),
        ({"sampler": "plms"}, "plms"),
        ({"sampler": "plms", "plms": True}, "plms"),
    ],
)
def test_samplers_by_switch_and_by_name(given: dict[str, object], sampler: str) -> None:
    assert Settings.of(**given).sampler == sampler


def test_laion400m_sets_what_was_not_said() -> None:
    settings = Settings.of(laion400m=True)
    assert settings.config == "configs/latent-diffusion/txt2img-1p4B-eval.yaml"
    assert settings.checkpoint == "models/ldm/text2img-large/model.ckpt"
    assert settings.outdir == "outputs/txt2img-samples-laion400m"
    assert Settings.of(laion400m=True, outdir="here").outdir == "here"


def test_the_builtin_model_draws_where_no_checkpoint_is(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.of().checkpoint is None
    default = tmp_path / "models/ldm/stable-diffusion-v1/model.ckpt"
    default.parent.mkdir(parents=True)
    default.touch()
    assert Settings.of().checkpoint == "models/ldm/stable-diffusion-v1/model.ckpt"
    assert Settings.of(ckpt="other.ckpt").checkpoint == "other.ckpt"
    assert Settings.of(model="folder").checkpoint is None


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 0},
        {"steps": -5},
        {"n_samples": 0},
        {"n_iter": -1},
        {"height": 0},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"eta": 1.5},
        {"eta": -0.1},
        {"eta": 0.5, "plms": True},
        {"sampler": "euler"},
        {"sampler": "ddim", "plms": True},
        {"precision": "half"},
        {"seed": -1},
        {"seed": 2**64},
        {"model": "folder", "ckpt": "file"},
        {"model": "folder", "config": "file"},
        {"model": "folder", "laion400m": True, "ckpt": "file"},
        {"revision": "main"},
        {"unknown": 1},
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.of(**given)
    assert caught.value.exit_code == 2
    assert caught.value.what
