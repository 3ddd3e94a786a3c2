"""Settings: the original's flags and defaults, and what is refused whatever the model is."""

import pytest

from sdcli.errors import UsageError
from sdcli.pipeline.samplers import SAMPLERS
from sdcli.settings import Settings, flags, spellings

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
    "--from-file": None,
    "--config": "configs/stable-diffusion/v1-inference.yaml",
    "--ckpt": "models/ldm/stable-diffusion-v1/model.ckpt",
    "--seed": 42,
    "--precision": "autocast",
}
"""Flags of `scripts/txt2img.py` and their defaults; --H and --W are 512 there, --scale 7.5, see `test_jobs.py`."""


def test_every_flag_of_the_original_with_its_default() -> None:
    ours = {flag.names[0]: default for _, flag, default, _ in flags()}
    assert {name: ours[name] for name in ORIGINAL} == ORIGINAL
    assert {"--H", "--W", "--scale"} <= ours.keys()


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


@pytest.mark.parametrize(
    ("given", "flags_named"),
    [
        ({"fixed_code": True, "seed_mode": "image"}, ("--fixed_code", "--seed-mode image")),
        ({"matrix": True, "compat": True}, ("--matrix", "--compat")),
        ({"resume": "out", "skip_save": True}, ("--resume", "--skip_save")),
        ({"resume": "", "skip_save": True}, ("--resume", "--skip_save")),
        ({"resume": "out", "output": "a.png"}, ("--resume", "--output")),
        ({"output": "a.png", "output_name": "{index}"}, ("--output", "--output-name")),
        ({"output": "a.png", "gallery": True}, ("--output", "--gallery")),
        ({"output": "a.png", "skip_save": True}, ("--output", "--skip_save")),
        ({"output": "a.png", "format": "jpeg"}, ("--output a.png", "--format jpeg")),
    ],
)
def test_contradictions_are_refused_and_each_alone_is_not(
    given: dict[str, object], flags_named: tuple[str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.of(**given)
    assert caught.value.exit_code == 2
    assert all(flag in caught.value.what for flag in flags_named)
    assert caught.value.fix
    for name, value in given.items():
        Settings.of(**{name: value})


class TestOutput:
    """`--output`: one image, and nothing else."""

    def test_one_image_is_the_default(self) -> None:
        settings = Settings.of(output="a.png")
        assert (settings.n_samples, settings.n_iter, settings.skip_grid) == (1, 1, True)
        assert Settings.of(output="a.png", n_samples=1, n_iter=1, images_per_prompt=1).output == "a.png"

    @pytest.mark.parametrize(
        "more",
        [{"n_samples": 2}, {"n_iter": 2}, {"images_per_prompt": 2}, {"from_file": "p.txt"}, {"matrix": True},
         {"from_file": "-"}, {"skip_grid": False}],
    )  # fmt: skip
    def test_more_than_one_is_refused(self, more: dict[str, object]) -> None:
        for output in ("a.png", "-"):
            with pytest.raises(UsageError, match="takes one image") as caught:
                Settings.of(output=output, **more)
            assert caught.value.exit_code == 2

    @pytest.mark.parametrize(
        ("name", "format"),
        [
            ("a.png", "png"), ("a.jpg", "jpeg"), ("a.JPEG", "jpeg"), ("b.webp", "webp"), ("a.png/b.webp", "webp"),
            ("a", "png"), ("a.gif", "png"), ("-", "png"), (".jpg", "png"),
        ],
    )  # fmt: skip
    def test_its_ending_gives_the_format(self, name: str, format: str) -> None:
        assert Settings.of(output=name).format == format

    @pytest.mark.parametrize("name", ["a", "-", "a.gif", "a.jpg"])
    def test_a_format_that_is_said_counts(self, name: str) -> None:
        assert Settings.of(output=name, format="jpeg").format == "jpeg"


@pytest.mark.parametrize("name", ["n_samples", "n_iter", "images_per_prompt", "steps", "height", "width"])
@pytest.mark.parametrize("value", [0, -1])
def test_there_is_at_least_one_of_each(name: str, value: int) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.of(**{name: value})
    assert caught.value.exit_code == 2


def test_every_spelling_leads_to_one_setting() -> None:
    known = spellings()
    assert known["H"] == known["height"] == "height"
    assert known["ddim_steps"] == known["steps"] == "steps"
    assert known["images_per_prompt"] == "images_per_prompt"
    for name, flag, _, _ in flags():
        assert {known[spelling.lstrip("-").replace("-", "_")] for spelling in (name, *flag.names)} == {name}
