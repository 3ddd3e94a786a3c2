"""Sources of settings: names and types in files and in the environment, and which source wins."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import sdcli
from sdcli import configuration
from sdcli.configuration import Given, Origin, load, merge, origin, read_environment, read_file, template
from sdcli.errors import InputFileError, SdcliError, UsageError
from sdcli.settings import Settings, flags, options

DEFAULTS = Settings.of()

File = Callable[[str], str]


@pytest.fixture
def file(tmp_path: Path) -> File:
    """A settings file with this text."""

    def write(text: str) -> str:
        path = tmp_path / "some.toml"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return str(path)

    return write


def values(name: str) -> st.SearchStrategy[Any]:
    """The values of a setting that are valid alone."""
    annotation = Settings.model_fields[name].annotation
    of_form = {"sigmas": ["5,1", "14.6, 0.4, 0"], "original_size": ["9x8", "1024 x 512"], "crop": ["0,0", "16, 8"]}
    if name in of_form:
        return st.sampled_from(of_form[name])
    if options()[name].choices:
        return st.sampled_from(options()[name].choices)
    kind = next(kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None))
    return {
        bool: st.booleans(),
        int: st.integers(1, min(10_000, options()[name].most or 10_000)),
        float: st.floats(0, 1, width=32),
        # A variable cannot contain a zero byte, and an empty one is ignored.
        str: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    }[kind]


def spellings(name: str) -> list[str]:
    names = [name, *(flag.lstrip("-") for flag in options()[name].names)]
    return [spelling.replace(*pair) for spelling in names for pair in (("-", "_"), ("_", "-"))]


def quoted(value: Any) -> str:
    """A TOML value. Text consists of escapes only."""
    return (
        '"' + "".join(f"\\U{ord(character):08X}" for character in value) + '"'
        if isinstance(value, str)
        else json.dumps(value)
    )


NAMES = [name for name, line in options().items() if line.path is None and not line.list_of]


@given(data=st.data(), name=st.sampled_from(NAMES))
def test_a_value_is_the_same_from_every_source(
    data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    value = data.draw(values(name))
    spelling = data.draw(st.sampled_from(spellings(name)))
    needed = {"revision": {"model": "org/name"}, "schedule": {"sampler": "euler"}, "sigmas": {"sampler": "euler"}}
    needed = needed.get(name, {})
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(f"{spelling} = {quoted(value)}\n")
    variable = f"SDCLI_{spelling.replace('-', '_').upper()}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    by_flag = load(needed | {name: value}, environment={}).settings
    assert load(needed, config_file=str(path), environment={}).settings == by_flag
    assert load(needed, environment={variable: text}).settings == by_flag
    assert load(needed, environment={"SDCLI_CONFIG_FILE": str(path)}).settings == by_flag


def test_no_two_settings_share_a_spelling() -> None:
    """Nor as variables, which have capital letters only."""
    owners = {(spelling.replace("-", "_").upper(), name) for name, *_ in flags() for spelling in spellings(name)}
    assert len(owners) == len({spelling for spelling, _ in owners})
    assert "CONFIG_FILE" not in {spelling for spelling, _ in owners}


LAYER = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.just("a cat"),
        "from_file": st.just("prompts.txt"),
        "sampler": st.sampled_from(["ddim", "plms", "dpm_solver", "euler", "ddpm", "heun", "tcd"]),
        "schedule": st.sampled_from(["auto", "karras", "linspace", "sgm_uniform"]),
        "sigmas": st.just("5,1"),
        "plms": st.booleans(),
        "dpm_solver": st.booleans(),
        "eta": st.sampled_from([0.0, 0.5]),
        "model": st.sampled_from(["org/name", "builtin"]),
        "revision": st.just("main"),
        "ckpt": st.just("a.ckpt"),
        "config": st.just("a.yaml"),
        "laion400m": st.booleans(),
        "watermark": st.just("mine"),
        "no_watermark": st.booleans(),
    },
)


def layer(values: dict[str, Any]) -> dict[str, Given]:
    lines = enumerate(values.items())
    return {name: Given(value, Origin("config file", "here", line)) for line, (name, value) in lines}


# Most layers contradict themselves.
@hypothesis_settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(LAYER, min_size=2, max_size=4))
def test_layers_that_are_valid_alone_are_valid_together(layers: list[dict[str, Any]]) -> None:
    """Layers never contradict each other, and the strongest is kept whole."""
    for values in layers:
        try:
            Settings.of(**values)
        except UsageError:
            assume(False)
    merged = {name: given.value for name, given in merge(*map(layer, layers)).items()}
    assert Settings.of(**merged)
    assert merged.items() >= layers[-1].items()


@pytest.mark.parametrize(
    ("weaker", "stronger", "settings"),
    [
        ({"plms": True}, {"sampler": "ddim"}, {"sampler": "ddim", "plms": False}),
        ({"sampler": "ddim"}, {"plms": True}, {"sampler": "plms"}),
        ({"dpm_solver": True}, {"plms": True}, {"sampler": "plms", "dpm_solver": False}),
        ({"plms": True}, {"plms": False}, {"sampler": "auto"}),
        ({"plms": True, "dpm_solver": True}, {"dpm_solver": False}, {"sampler": "auto"}),
        ({"eta": 0.5}, {"plms": True}, {"sampler": "plms", "eta": 0.0}),
        ({"sampler": "plms"}, {"eta": 0.5}, {"sampler": "auto", "eta": 0.5}),
        ({"sampler": "plms"}, {"eta": 0.0}, {"sampler": "plms"}),
        ({"sampler": "heun", "schedule": "karras"}, {"sampler": "euler"}, {"sampler": "euler", "schedule": "karras"}),
        ({"sampler": "heun", "schedule": "karras"}, {"sampler": "ddpm"}, {"schedule": "auto"}),
        ({"sampler": "euler", "sigmas": "5,1"}, {"plms": True}, {"sampler": "plms", "sigmas": ""}),
        ({"sampler": "euler", "sigmas": "5,1"}, {"schedule": "linspace"}, {"sampler": "euler", "sigmas": ""}),
        ({"sampler": "heun", "schedule": "karras"}, {"eta": 0.5}, {"sampler": "auto", "schedule": "auto"}),
        ({"sampler": "tcd"}, {"schedule": "linspace"}, {"sampler": "auto", "schedule": "linspace"}),
        ({"sampler": "ddim"}, {"schedule": "karras"}, {"sampler": "auto", "schedule": "karras"}),
        ({"sampler": "ddim"}, {"sigmas": "5,1"}, {"sampler": "auto", "sigmas": "5,1"}),
        ({"ckpt": "a.ckpt", "config": "a.yaml"}, {"model": "org/b"}, {"model": "org/b", "ckpt": DEFAULTS.ckpt}),
        ({"model": "org/a", "revision": "v2"}, {"model": "org/b"}, {"model": "org/b", "revision": None}),
        ({"model": "org/a", "revision": "v2"}, {"ckpt": "b.ckpt"}, {"model": None, "revision": None, "ckpt": "b.ckpt"}),
        ({"model": "org/a"}, {"revision": "v2"}, {"model": "org/a", "revision": "v2"}),
        ({"revision": "v2"}, {"model": "org/a"}, {"model": "org/a", "revision": "v2"}),
        ({"ckpt": "a.ckpt"}, {"laion400m": True}, {"ckpt": "models/ldm/text2img-large/model.ckpt"}),
        ({"outdir": "mine"}, {"laion400m": True}, {"outdir": "mine"}),
        ({"laion400m": True}, {"ckpt": "b.ckpt"}, {"laion400m": True, "ckpt": "b.ckpt"}),
        ({"from_file": "a.txt"}, {"prompt": "a cat"}, {"from_file": None, "prompt": "a cat"}),
        ({"prompt": "a cat"}, {"from_file": "a.txt"}, {"from_file": "a.txt"}),
        ({"no_watermark": True}, {"watermark": "mine"}, {"no_watermark": False, "watermark": "mine"}),
        ({"fixed_code": True}, {"seed_mode": "image"}, {"fixed_code": False, "seed_mode": "image"}),
        ({"seed_mode": "image"}, {"fixed_code": True}, {"fixed_code": True, "seed_mode": "run"}),
        ({"seed_mode": "image"}, {"fixed_code": False}, {"fixed_code": False, "seed_mode": "image"}),
        ({"fixed_code": True}, {"seed_mode": "run"}, {"fixed_code": True, "seed_mode": "run"}),
        ({"matrix": True}, {"compat": True}, {"matrix": False, "compat": True}),
        ({"skip_save": True}, {"resume": ""}, {"skip_save": False, "resume": ""}),
        ({"gallery": True, "output_name": "{index}"}, {"output": "a.png"}, {"gallery": False, "output_name": None}),
        ({"output": "a.png"}, {"gallery": True}, {"output": None, "gallery": True}),
        (
            {"from_file": "a.txt", "n_samples": 4, "n_iter": 3, "matrix": True, "images_per_prompt": 2},
            {"output": "a.png"},
            {"from_file": None, "n_samples": 1, "n_iter": 1, "matrix": False, "images_per_prompt": None},
        ),
    ],
)  # fmt: skip
def test_a_stronger_layer_wins(weaker: dict[str, Any], stronger: dict[str, Any], settings: dict[str, Any]) -> None:
    merged = Settings.of(**{name: given.value for name, given in merge(layer(weaker), layer(stronger)).items()})
    assert {name: getattr(merged, name) for name in settings} == settings


def test_the_name_of_a_sampler_sets_its_schedule(file: File) -> None:
    """From every source; a stronger sampler replaces it, and a stronger schedule, too."""
    path = file("steps = 5\nsampler = 'DPM++ 2M Karras'\n")

    def found(environment: dict[str, str] | None = None, **flags: str) -> tuple[str, str]:
        settings = load(flags, config_file=path, environment=environment or {}).settings
        return settings.sampler, settings.schedule

    assert found() == ("dpmpp_2m", "karras")
    assert found({"SDCLI_SAMPLER": "dpmpp_2m_sde_gpu"}) == ("dpmpp_2m_sde", "auto")
    assert found({"SDCLI_SAMPLER": "Euler_Exponential"}) == ("euler", "exponential")
    assert found({"SDCLI_SAMPLER": "k_euler_ancestral"}) == ("euler_a", "auto")
    assert found({"SDCLI_SAMPLER": "euler", "SDCLI_SCHEDULE": "sgm-uniform"}) == ("euler", "sgm_uniform")
    assert found({"SDCLI_SCHEDULE": "exponential"}) == ("dpmpp_2m", "exponential")
    assert found({"SDCLI_SCHEDULE": "exponential"}, sampler="DPM++ SDE Karras") == ("dpmpp_sde", "karras")
    assert found(sampler="DPM++ 2M") == ("dpmpp_2m", "auto")
    assert load({"plms": True}, config_file=path, environment={}).settings.schedule == "auto"
    given = load(config_file=path, environment={}).given
    assert given["sampler"].origin == given["schedule"].origin == Origin("config file", path, 2)
    two = {"sampler": "LMS Karras", "schedule": "beta"}
    with pytest.raises(UsageError) as caught:
        load(two, environment={}, typed={"schedule": "--scheduler"})
    assert caught.value.what == "--sampler 'LMS Karras' contradicts --scheduler beta"
    with pytest.raises(UsageError) as caught:
        load(config_file=file("sampler = 'LMS Karras'\nschedule = 'beta'"), environment={})
    assert caught.value.what == "--sampler 'LMS Karras' contradicts --schedule beta"
    assert "line 1" in caught.value.why
    assert "line 2" in caught.value.why


def test_sources_from_the_weakest_to_the_strongest(file: File) -> None:
    user = configuration.user_file()
    user.parent.mkdir(parents=True, exist_ok=True)
    user.write_text("steps = 1\nseed = 1\nscale = 1\nn_iter = 1\n")
    try:
        path = file("# a comment\nseed = 2\nscale = 2\nn_iter = 2\n")
        found = load({"n_iter": 4}, config_file=path, environment={"SDCLI_SCALE": "3", "SDCLI_N_ITER": "3"})
    finally:
        user.unlink()
    assert {name: getattr(found.settings, name) for name in ("n_samples", "steps", "seed", "scale", "n_iter")} == {
        "n_samples": 3, "steps": 1, "seed": 2, "scale": 3.0, "n_iter": 4,
    }  # fmt: skip
    assert {name: origin(name, found.given) for name in ("n_samples", "steps", "seed", "scale", "n_iter")} == {
        "n_samples": Origin("default"),
        "steps": Origin("user file", str(user), 1),
        "seed": Origin("config file", path, 2),
        "scale": Origin("environment", "SDCLI_SCALE"),
        "n_iter": Origin("flag", "--n_iter"),
    }
    assert load(environment={}).settings == DEFAULTS, "the user's file is deleted"


def test_a_switch_is_the_origin_of_what_it_stands_for(file: File) -> None:
    found = load(config_file=file("laion400m = true\n\nplms = true\n"), environment={"SDCLI_OUTDIR": "out"})
    lines = {name: origin(name, found.given).line for name in ("sampler", "plms", "ckpt", "config")}
    assert lines == {"sampler": 3, "plms": 3, "ckpt": 1, "config": 1}
    assert str(origin("outdir", found.given)) == "SDCLI_OUTDIR"
    assert origin("sampler", layer({"plms": False})) == Origin("default")


def test_an_empty_variable_is_ignored() -> None:
    assert not read_environment({"SDCLI_STEPS": "", "SDCLI_UNKNOWN": "", "SDCLI_CONFIG_FILE": "x", "STEPS": "x"})
    assert load(environment={"SDCLI_CONFIG_FILE": ""}).settings == DEFAULTS


def test_a_given_file_replaces_the_one_of_the_variable(file: File) -> None:
    environment = {"SDCLI_CONFIG_FILE": "missing.toml"}
    assert load(config_file=file("steps = 7"), environment=environment).settings.steps == 7


def test_paths_start_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/own.yaml").touch()
    path = Path("conf/some.toml")

    def read(text: str) -> dict[str, Any]:
        path.write_text(text)
        return {name: given.value for name, given in read_file(path, "config file").items()}

    assert read('from_file = "a.txt"\nckpt = "../b.ckpt"\nconfig = "own.yaml"\noutdir = "out"') == {
        "from_file": "conf/a.txt", "ckpt": "conf/../b.ckpt", "config": "conf/own.yaml", "outdir": "out",
    }  # fmt: skip
    assert read('config = "configs/shipped.yaml"\nckpt = "/b.ckpt"\noutdir = "~/out"') == {
        "config": "configs/shipped.yaml", "ckpt": "/b.ckpt", "outdir": str(tmp_path / "home/out"),
    }  # fmt: skip
    assert read('model = "model"') == {"model": "conf/model"}
    assert read('model = "org/name"\nsafety-model = ""') == {"model": "org/name", "safety_model": ""}
    assert read('model = "~/it"\nprompt = "~/it"') == {"model": str(tmp_path / "home/it"), "prompt": "~/it"}


@pytest.mark.parametrize(
    ("text", "code", "phrases"),
    [
        ("a = 1", 2, ["unknown setting a in FILE, line 1"]),
        ("\n# x\nstpes = 30", 2, ["unknown setting stpes in FILE, line 3", "Did you mean steps"]),
        ("SDCLI_STEPS = 30", 2, ["unknown setting SDCLI_STEPS in FILE, line 1"]),
        ("[txt2img]\nsteps = 3", 2, ["unknown setting txt2img in FILE, line 1"]),
        ('prompt = """\nsteps = 3\n"""\n"steps" = "30"', 2, ['steps = "30" in FILE, line 4', "a whole number"]),
        ("steps = 30.0", 2, ["steps = 30.0 in FILE, line 1", "a whole number"]),
        ("seed = true", 2, ["seed = true", "or random"]),
        ("plms = 1", 2, ["plms = 1", "true or false"]),
        ("prompt = 5", 2, ["prompt = 5", "Pass text"]),
        ("prompt = [\n]", 2, ["--prompt is an empty list", "FILE, line 1"]),
        ("prompt.a = 5", 2, ["prompt", "Pass text"]),
        ("prompt = 1979-05-27", 2, ["1979-05-27", "Pass text"]),
        ('sampler = "eula"', 2, ["--sampler 'eula' is not valid", "FILE, line 1", "ddim, plms, dpm_solver"]),
        ('on-unsafe = "hide"', 2, ['on-unsafe = "hide" in FILE, line 1', "replace, blur, skip"]),
        ("steps = 3\nddim-steps = 3", 2, ["steps and ddim-steps in FILE, line 2", "the same setting"]),
        ("\nsteps = 0", 2, ["--ddim_steps 0", "--ddim_steps is set by FILE, line 2."]),
        ("scale = nan", 2, ["--scale nan", "FILE, line 1"]),
        ("plms = true\nsampler = 'ddim'", 2, ["--plms contradicts --sampler ddim", "FILE, line 1", "FILE, line 2"]),
        ("plms = true\neta = 0.5", 2, ["used with the sampler plms", "--ddim_eta is set by FILE, line 2", "line 1"]),
        ("model = 'a'\nckpt = 'b'", 2, ["--model and --ckpt contradict", "FILE, line 1", "FILE, line 2"]),
        ("steps = \n", 3, ["FILE", "line 1"]),
        ("steps = 3\nsteps = 4\n", 3, ["FILE", "overwrite", "line 2"]),
        ("steps = 3\n# \udcff", 3, ["FILE", "Line 2 contains the byte 0xff"]),
        ("\ufeffsteps = 0\r\n", 2, ["--ddim_steps 0", "FILE, line 1"]),
        ('outdir = "a\\u0000b"', 2, [r'outdir = "a\u0000b" in FILE, line 1', "zero byte"]),
        ("steps = " + "[" * 10_000, 3, ["FILE", "not TOML", "recursion"]),
        ("steps = " + "9" * 5_000, 3, ["FILE", "not TOML", "digits"]),
        ("steps = 0x" + "f" * 5_000, 3, ["FILE", "not TOML", "digits"]),
        ("a" + ".a" * 90_000 + " = 1", 3, ["FILE", "A key has more than 50 parts"]),
        ("x = {" + '"a" . ' * 20_000 + "a = 1}", 3, ["FILE", "A key has more than 50 parts"]),
        ("prompt = [\n" + "1,\n" * 10_000 + "]", 2, ["prompt = [1, 1,", "... in FILE", "Pass text"]),
        ("steps = '" + "x" * 100_000 + "'", 2, ["steps = ", "... in FILE, line 1 is not valid"]),
        ("x" * 100_000 + " = 1", 2, ["unknown setting xxx", "in FILE, line 1"]),
        ("#" * 300_000, 3, ["FILE", "more than 200,000 bytes"]),
        (None, 3, ["FILE", "No such file"]),
    ],
)  # fmt: skip
def test_an_error_in_a_file_names_its_line(file: File, text: str | None, code: int, phrases: list[str]) -> None:
    path = file(text or "")
    if text is None:
        Path(path).unlink()
    with pytest.raises(SdcliError) as caught:
        load(config_file=path, environment={})
    assert caught.value.exit_code == code
    for phrase in phrases:
        assert phrase.replace("FILE", path) in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "phrases"),
    [
        ({"SDCLI_STEP": "30"}, ["SDCLI_STEP in the environment", "Did you mean SDCLI_STEPS"]),
        ({"SDCLI_steps": "30"}, ["SDCLI_steps", "SDCLI_STEPS"]),
        ({"SDCLI_STEPS": "many"}, ['SDCLI_STEPS = "many"', "a whole number"]),
        ({"SDCLI_PLMS": "perhaps"}, ['SDCLI_PLMS = "perhaps"', "true or false"]),
        ({"SDCLI_STEPS": "3", "SDCLI_DDIM_STEPS": "3"}, ["SDCLI_STEPS and SDCLI_DDIM_STEPS", "the same setting"]),
        ({"SDCLI_STEPS": "9" * 5_000}, ["SDCLI_STEPS = ", "... in the environment", "a whole number"]),
        ({f"SDCLI_{'X' * 10_000}": "1"}, ["unknown setting SDCLI_XXX", "in the environment"]),
        ({"SDCLI_OUTDIR": "\udcff"}, ["--outdir", "is not text", "set by SDCLI_OUTDIR"]),
        ({"SDCLI_STEPS": "0"}, ["--ddim_steps 0", "set by SDCLI_STEPS"]),
        ({"SDCLI_REVISION": "main"}, ["--revision needs a Hugging Face model id", "set by SDCLI_REVISION"]),
    ],
)
def test_an_error_in_the_environment_names_its_variable(environment: dict[str, str], phrases: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load(environment=environment)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_an_invalid_value_is_ignored_if_a_stronger_source_replaces_it(file: File) -> None:
    assert load({"steps": 5}, config_file=file("steps = 0"), environment={}).settings.steps == 5
    with pytest.raises(UsageError) as caught:
        load({"steps": 0}, config_file=file("steps = 5"), environment={})
    assert "set by" not in str(caught.value), "a flag is its own origin"


def test_a_settings_file_never_blocks_and_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(InputFileError, match="It is a pipe"):
        load(config_file=str(tmp_path / "fifo.toml"), environment={})
    with pytest.raises(InputFileError, match="more than 200,000 bytes"):
        load(config_file="/dev/zero", environment={})
    for name in ("x" * 300, "x/" * 3000):
        with pytest.raises(InputFileError, match="File name too long"):
            load(config_file=name, environment={})
    assert load(config_file="/dev/null", environment={}).settings == DEFAULTS


def test_a_pipe_that_a_shell_has_opened_is_a_settings_file() -> None:
    end, writer = os.pipe()
    os.write(writer, b"steps = 7")
    os.close(writer)
    try:
        assert load(config_file=f"/dev/fd/{end}", environment={}).settings.steps == 7
    finally:
        os.close(end)


def test_a_folder_is_not_a_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputFileError, match="cannot read the settings"):
        load(config_file=str(tmp_path), environment={})
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null")
    assert load(environment={}).settings == DEFAULTS, "the user has no file"


@given(
    st.lists(
        st.sampled_from(
            [
                "# x = 1\n",
                "\n",
                '{} = "#"\n',
                "{} = [ # x\n 1,\n]\n",
                '{} = """\na = 1\n"""\n',
                "{}.b = 2 # x\n",
                "\r\n",
            ]
        ),
        max_size=12,
    )
)
def test_the_line_of_every_key_is_found(statements: list[str]) -> None:
    statements = [statement.format(f"key{number}") for number, statement in enumerate(statements)]
    text = "".join(statements)
    lines = configuration._lines(text)
    assert lines.keys() == tomllib.loads(text).keys()
    for key, line in lines.items():
        assert text.splitlines()[line - 1].startswith(key)
    assert all(one < other for one, other in pairwise(lines.values()))


def test_the_template_sets_nothing_and_its_comments_are_the_defaults() -> None:
    text = template()
    assert tomllib.loads(text) == {}
    names = [line.removeprefix("# ").partition(" = ")[0] for line in text.splitlines() if " = " in line]
    assert [name for name in names if name in Settings.model_fields] == [name for name, *_ in flags()]
    kept = "\n".join(
        line.removeprefix("# ")
        for line in text.splitlines()
        if (name := line.removeprefix("# ").partition(" = ")[0]) in Settings.model_fields
        and getattr(DEFAULTS, name) is not None
    )
    assert Settings.of(**tomllib.loads(kept)) == DEFAULTS


def test_the_library_ignores_files_and_the_environment(monkeypatch: pytest.MonkeyPatch, file: File) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("sdcli.library.execute", lambda run, progress: seen.append(run.settings) or [])
    monkeypatch.setenv("SDCLI_STEPS", "7")
    monkeypatch.setenv("SDCLI_CONFIG_FILE", file("seed = 7"))
    assert load().settings.seed == load().settings.steps == 7
    sdcli.txt2img("a cat")
    own = {"steps": 20, "sampler": "ddim"}
    assert seen == [Settings.of(prompts=("a cat",), images_per_prompt=1, **own, skip_save=True, skip_grid=True)]


def test_the_example_of_the_documentation(file: File) -> None:
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    settings = load(config_file=file(example), environment={}).settings
    assert (settings.steps, settings.sampler, settings.skip_grid) == (30, "plms", True)
