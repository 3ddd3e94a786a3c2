"""The table of settings: flags and defaults of the original, facets, and values that are refused for every model."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import get_args

import pytest

from sdcli import settings as table
from sdcli.errors import UsageError
from sdcli.jobs import Job
from sdcli.registry import EXECUTORS, FORMATS, SAFETY_CHECKERS, SAMPLERS, WATERMARK_METHODS
from sdcli.settings import (
    ImageSettings,
    Scope,
    Settings,
    crop_of,
    flags,
    image_format,
    in_use,
    names,
    options,
    original_size_of,
    spellings,
)

ORIGINAL = {
    "--prompt": "a painting of a virus monster playing guitar",
    "--outdir": "outputs/txt2img-samples",
    "--skip_grid": False,
    "--skip_save": False,
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
"""Flags of `scripts/txt2img.py` with their defaults; 50 steps, 512 x 512 pixels and scale 7.5 are in `test_jobs.py`."""


def test_every_flag_of_the_original_exists_with_its_default() -> None:
    defaults = {line.names[0]: default for _, line, default, _ in flags()}
    assert {name: defaults[name] for name in ORIGINAL} == ORIGINAL
    assert {"--ddim_steps", "--H", "--W", "--scale"} <= defaults.keys()


class TestTable:
    """The facets of the settings agree with each other and with everything that is derived from them."""

    def test_every_scope_is_known(self) -> None:
        assert {line.scope for line in options().values()} <= set(get_args(Scope))
        assert options().keys() == Settings.model_fields.keys()

    def test_every_setting_that_a_facet_names_exists(self) -> None:
        for name, line in options().items():
            for other in (*line.contradicts, *line.displaces, *line.stands_for):
                assert other in options(), f"{name} names {other}"
                assert other != name

    def test_contradictions_are_symmetric(self) -> None:
        pairs = {(name, other) for name, line in options().items() for other in line.contradicts}
        assert pairs == {(other, name) for name, other in pairs}

    def test_a_switch_stands_for_valid_values(self) -> None:
        for name, line in options().items():
            for other, value in line.stands_for.items():
                assert getattr(Settings.of(**{name: True}), other) == value

    def test_a_job_has_the_settings_of_an_image_and_its_place(self) -> None:
        assert set(ImageSettings.model_fields) == set(names("image"))
        own = {"noise", "model", "model_hash", "index", "out", "read_as", "files"}
        assert set(Job.model_fields) == {*names("image"), *own}

    def test_only_settings_of_a_job_differ_within_a_batch(self) -> None:
        assert set(names(varies=True)) == {"prompt", "negative_prompt", "seed"}

    def test_the_table_is_in_the_order_of_the_help_page(self) -> None:
        panels = [panel for panel, _ in groupby(line.panel for _, line, _, _ in flags())]
        assert panels == [table.PROMPT, table.SIZE, table.SAMPLING, table.MODEL, table.STAGES, table.OUTPUT]

    def test_every_spelling_belongs_to_one_setting(self) -> None:
        flag_names = [name.replace("-", "_") for line in options().values() for name in line.names]
        assert len(flag_names) == len(set(flag_names))
        known = spellings()
        assert known["H"] == known["height"] == "height"
        assert known["ddim_steps"] == known["steps"] == "steps"
        assert known["images_per_prompt"] == "images_per_prompt"
        for name, line in options().items():
            spelled = (name, *line.names, *line.aliases)
            assert {known[spelling.lstrip("-").replace("-", "_")] for spelling in spelled} == {line.list_of or name}

    def test_every_setting_has_one_sentence_of_help(self) -> None:
        for name, line in options().items():
            assert line.help[0].isupper() or line.help.startswith(("auto", "run")), name
            assert line.help.endswith("."), name

    def test_choices_are_the_entries_of_the_registry(self) -> None:
        assert options()["sampler"].choices == ("auto", *SAMPLERS)
        assert options()["format"].choices == tuple(FORMATS)
        assert options()["executor"].choices == tuple(EXECUTORS)
        assert options()["safety_checker"].choices == ("auto", *SAFETY_CHECKERS, "off")
        assert options()["watermark_method"].choices == ("auto", *WATERMARK_METHODS)

    def test_every_default_is_valid(self) -> None:
        for name, line, default, choices in flags():
            assert not choices or default in choices, name
            assert default is None or line.least is None or default >= line.least, name


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("plms", True, True),
        ("plms", False, False),
        ("seed_mode", "run", False),
        ("seed_mode", "image", True),
        ("resume", "", True),
        ("resume", None, False),
        ("ckpt", Settings.model_fields["ckpt"].default, True),
    ],
)
def test_a_setting_is_in_use_unless_it_is_off(name: str, value: object, used: bool) -> None:
    assert in_use(name, {name: value}) is used
    assert not in_use(name, {})


@pytest.mark.parametrize(
    ("given", "sampler"),
    [
        ({}, "auto"),
        ({"plms": True}, "plms"),
        ({"dpm_solver": True}, "dpm_solver"),
        ({"plms": True, "dpm_solver": True}, "dpm_solver"),
        ({"sampler": "plms"}, "plms"),
        ({"sampler": "plms", "plms": True}, "plms"),
    ],
)
def test_a_switch_or_a_name_selects_the_sampler(given: dict[str, object], sampler: str) -> None:
    assert Settings.of(**given).sampler == sampler


def test_laion400m_sets_what_is_not_given() -> None:
    settings = Settings.of(laion400m=True)
    assert settings.config == "configs/latent-diffusion/txt2img-1p4B-eval.yaml"
    assert settings.checkpoint == "models/ldm/text2img-large/model.ckpt"
    assert settings.outdir == "outputs/txt2img-samples-laion400m"
    assert Settings.of(laion400m=True, outdir="here").outdir == "here"


def test_the_builtin_model_is_used_if_the_default_checkpoint_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.of().checkpoint is None
    default = tmp_path / "models/ldm/stable-diffusion-v1/model.ckpt"
    default.parent.mkdir(parents=True)
    default.touch()
    assert Settings.of().checkpoint == "models/ldm/stable-diffusion-v1/model.ckpt"
    assert Settings.of(ckpt="other.ckpt").checkpoint == "other.ckpt"
    assert Settings.of(model="folder").checkpoint is None
    default.unlink()
    default.symlink_to("nowhere")
    assert Settings.of().checkpoint == "models/ldm/stable-diffusion-v1/model.ckpt", "a broken link is an error later"


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
        {"sampler": "DPM++ 2S a"},
        {"schedule": "KL Optimal"},
        {"sampler": "DPM++ 2M Karras", "schedule": "exponential"},
        {"sampler": "DPM++ 2M Karras", "sigmas": "3,1"},
        {"sampler": "DDPM Karras"},
        {"sampler": "ddim", "plms": True},
        {"precision": "half"},
        {"seed": -2},
        {"seed": "1-2-3"},
        {"seed": "3-1"},
        {"seed": "1-99999"},
        {"seed": [1, 2**64]},
        {"seed": []},
        {"prompt": ["a cat", 5]},
        {"prompts": 5},
        {"prompts": {"a": 1}},
        {"seeds": "x"},
        {"prompt": ["a cat"], "from_file": "p.txt"},
        {"seed": [1, 2], "n_iter": 2},
        {"seed": [1, 2], "images_per_prompt": 2},
        {"seed": [1, 2], "seed_step": 5},
        {"seed_step": 5, "seed_mode": "run"},
        {"seed_step": -1},
        {"seed": 2**64},
        {"model": "folder", "ckpt": "file"},
        {"model": "folder", "config": "file"},
        {"model": "folder", "laion400m": True, "ckpt": "file"},
        {"revision": "main"},
        {"unknown": 1},
    ],
)
def test_invalid_values_and_combinations_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.of(**given)
    assert caught.value.exit_code == 2
    assert caught.value.what


@pytest.mark.parametrize("name", [name for name, line in options().items() if line.path and not line.may_be_empty])
def test_a_path_is_not_empty(name: str) -> None:
    for value in ("", "a\0b"):
        with pytest.raises(UsageError, match="is not a path") as caught:
            Settings.of(**{name: [value] if options()[name].repeats else value})
        assert caught.value.settings == (name,)
    assert Settings.of(resume="").resume == ""


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
def test_a_contradiction_is_refused_and_each_setting_alone_is_not(
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
    """`--output` saves one image and nothing else."""

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
            ("a", "png"), ("-", "png"), (".jpg", "png"),
        ],
    )  # fmt: skip
    def test_its_suffix_selects_the_format(self, name: str, format: str) -> None:
        assert Settings.of(output=name).format == format
        assert image_format(name) in (format, None)

    @pytest.mark.parametrize("name", ["a", "-", "a.gif", "a.jpg"])
    def test_a_given_format_is_used_if_the_suffix_does_not_contradict_it(self, name: str) -> None:
        assert Settings.of(output=name, format="jpeg").format == "jpeg"


@pytest.mark.parametrize("name", ["n_samples", "n_iter", "images_per_prompt", "steps", "height", "width"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one_are_refused(name: str, value: int) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.of(**{name: value})
    assert caught.value.exit_code == 2


def test_advice_for_bytes_that_are_not_text_names_the_locale() -> None:
    """In a locale without UTF-8, Python reads bytes of UTF-8 as surrogates."""
    with pytest.raises(UsageError, match="is not text") as raised:
        Settings.of(prompt="a \udcc3\udcb6")
    assert "LC_ALL=C.UTF-8" in raised.value.fix


@pytest.mark.parametrize(
    ("name", "spelled", "value"),
    [
        ("format", "jpg", "jpeg"), ("format", "JPG", "jpeg"), ("format", ".jpg", "jpeg"), ("format", "PNG", "png"),
        ("sampler", "DPM-Solver", "dpm_solver"), ("sampler", "DPM++ 2M", "dpmpp_2m"), ("rng", "CPU", "cpu"),
        ("watermark_method", "DWTDCT", "dwtDct"),
    ],
)  # fmt: skip
def test_choices_in_other_spellings(name: str, spelled: str, value: str) -> None:
    assert getattr(Settings.of(**{name: spelled}), name) == value


@pytest.mark.parametrize("value", ["random", "RANDOM", -1, "-1", " -1 "])
def test_a_random_seed_is_chosen_once(value: object) -> None:
    settings = Settings.of(seed=value)
    assert 0 <= settings.seed < 2**32
    assert settings.seed != Settings.of(seed=value).seed
    assert settings.model_copy().seed == settings.seed


def test_a_list_of_prompts_or_seeds() -> None:
    settings = Settings.of(prompt=["a cat", "a dog"], seed="3,1-2")
    assert (settings.prompts, settings.prompt) == (("a cat", "a dog"), "a cat")
    assert (settings.seeds, settings.seed) == ((3, 1, 2), 3)
    assert Settings.of(**settings.model_dump(exclude_unset=True)) == settings, "as a journal has them"
    assert Settings.of(seed="18446744073709551614-18446744073709551615").seeds == (2**64 - 2, 2**64 - 1)
    assert Settings.of(seed="5").seeds is None


def test_a_list_of_one_prompt_has_no_grid_of_one_image() -> None:
    one = Settings.of(prompt=["a cat"])
    assert [one.has_grid(count) for count in (1, 2, None)] == [False, True, True]
    assert Settings.of(prompt="a cat").has_grid(1)
    assert not Settings.of(prompt=["a cat", "a dog"], skip_grid=True).has_grid(2)
    assert Settings.of(prompt=["a cat"], skip_save=True).has_grid(1), "otherwise nothing would be saved"


@pytest.mark.parametrize("name", ["x.gif", "x.xyz", "tmp.AbC", "a.png/x.bmp"])
def test_a_suffix_that_is_no_format_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"end.* in \.png, \.jpg, \.jpeg, \.webp"):
        Settings.of(output=name)
    assert Settings.of(output=name, format="jpg").format == "jpeg"


@pytest.mark.parametrize(
    ("value", "expected"), [("", (64, 128)), ("1024x768", (768, 1024)), (" 1024 X 768 ", (768, 1024))]
)
def test_the_original_size_has_its_width_first(value: str, expected: tuple[int, int]) -> None:
    assert original_size_of(Settings.of(original_size=value, height=64, width=128)) == expected


@pytest.mark.parametrize(("value", "expected"), [("", (0, 0)), ("0,128", (0, 128)), ("16, 0", (16, 0))])
def test_the_crop_has_its_top_first(value: str, expected: tuple[int, int]) -> None:
    assert crop_of(Settings.of(crop=value)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("original_size", value) for value in ("1024", "0x8", "8x16385", "9" * 5000 + "x8", "8x8x8", "-8x8", "8,8")),
     *(("crop", value) for value in ("1", "1,2,3", "-1,0", "0,16385", "1x2", "\u0661,0"))],
)  # fmt: skip
def test_sizes_that_are_none_are_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError, match="is not valid") as error:
        Settings.of(**{name: value})
    assert error.value.settings == (name,) and len(str(error.value)) < 300
