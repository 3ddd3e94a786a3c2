"""Parsing the command of an image and planning its run gives the job of the image again."""

import importlib
import os
import shutil
import subprocess
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdcli.cli import app
from sdcli.jobs import Job, batches
from sdcli.model_spec import ModelSpec, NoiseSchedule
from sdcli.outputs.command import command_line, command_of
from sdcli.pipeline.noise import BatchNoise
from sdcli.pipeline.samplers import Plan
from sdcli.prompts import Prompts
from sdcli.registry import SAMPLERS
from sdcli.settings import Settings, default
from sdcli.terminal import printable

SPEC = ModelSpec(
    name="builtin", family="sd1", latent_channels=4, downscale=8, size_multiple=64,
    default_height=64, default_width=64, default_scale=7.5, default_steps=50, schedule=NoiseSchedule(),
    watermark_method="robust",
)  # fmt: skip
SHAPE = (4, 8, 8)


def jobs(settings: Settings) -> list[Job]:
    def draws(job: Job) -> int:
        count: int = SAMPLERS[job.sampler].draws(Plan.of(job, job.steps), SPEC.schedule)
        return count

    return [job for batch in batches(Prompts(settings), settings, SPEC, "00", draws) for job in batch]


def parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a command, parsed by a shell and by the command line."""
    kept: list[Settings] = []
    # Imported by name, because the attribute `sdcli.txt2img` is the function.
    module = importlib.import_module("sdcli.txt2img")
    monkeypatch.setattr(module, "generate", lambda settings, *_: kept.append(settings) or [])
    shell = ["bash", "-c", f"sdcli() {{ printf '%s\\0' \"$@\"; }}\n{line}"]
    arguments = subprocess.run(shell, capture_output=True, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"})
    app(arguments.stdout.decode().split("\0")[:-1], standalone_mode=False)
    return kept[0]


def job(**changes: object) -> Job:
    return jobs(Settings.of(prompt="a cat", n_samples=1, n_iter=1))[0].model_copy(update=changes)


def test_defaults_are_left_out() -> None:
    assert command_line(job()) == (
        "sdcli txt2img --prompt 'a cat' --H 64 --W 64 --n_samples 1 --n_iter 1 --ddim_steps 50 --sampler ddim "
        "--scale 7.5 --seed 42"
    )


def test_several_prompts_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of a grid."""
    settings = Settings.of(prompt=["a cat", "-a dog"], seed=[1, 7], sampler="plms")
    line = command_of(settings.model_dump())
    assert line == "sdcli txt2img --prompt 'a cat' --prompt='-a dog' --n_iter 1 --sampler plms --seed 1,7"
    again = parsed(line, monkeypatch)
    assert (again.prompts, again.seeds) == (settings.prompts, settings.seeds)


def test_every_other_setting_is_named() -> None:
    line = command_line(job(sampler="plms", scale=3.0, steps=20, negative_prompt="a dog", rng="cpu", precision="full"))
    assert line == (
        "sdcli txt2img --prompt 'a cat' --negative-prompt 'a dog' --H 64 --W 64 --n_samples 1 --n_iter 1 "
        "--ddim_steps 20 --sampler plms --scale 3.0 --seed 42 --rng cpu --precision full"
    )


@pytest.mark.parametrize(
    ("model", "flag"),
    [("a.ckpt", "--ckpt a.ckpt"), ("a b.safetensors", "--ckpt 'a b.safetensors'"), ("o/m", "--model o/m")],
)
def test_another_model_is_named(model: str, flag: str) -> None:
    assert f" {flag}" in command_line(job(model=model))


def test_the_settings_of_the_run_add_what_a_job_does_not_contain() -> None:
    settings = Settings.of(
        ckpt="models/my own.ckpt", config="v1.yaml", safety_checker="off", no_watermark=True, outdir="elsewhere"
    )
    line = command_line(job(model="my own.ckpt"), settings)
    assert line.endswith(
        "--seed 42 --ckpt 'models/my own.ckpt' --config v1.yaml --safety-checker off --no-watermark"
    ), "the output folder is left out"


@pytest.mark.parametrize("path", [f"{Path.home()}/my models/a.ckpt", "~/my models/a.ckpt"])
def test_the_home_folder_is_not_named(path: str) -> None:
    settings = Settings.of(ckpt=path, config="v1.yaml", watermark="~/")
    line = command_line(job(prompt=f"{Path.home()}/", model="a.ckpt"), settings)
    assert line.endswith("--ckpt ~/'my models/a.ckpt' --config v1.yaml --watermark '~/'")
    assert f"--prompt {Path.home()}/ " in line, "a prompt is not a path"


@pytest.mark.parametrize(
    "prompt",
    [
        'it\'s "quoted" $HOME `ls` \\ !',
        "--seed 7",
        "-",
        "# not a comment",
        "two\nlines",
        "",
        "שלום 😀",
        "$(reboot); *",
        "'\\'\\\\''",
        "=ls %self @ ~",
    ],
)
def test_a_shell_parses_any_prompt_back(prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parsed(command_line(job(prompt=prompt, negative_prompt=prompt)), monkeypatch)
    assert (settings.prompt, settings.negative_prompt) == (prompt, prompt)


def test_control_characters_become_escapes_and_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    line = command_line(job(prompt="a\x01'; reboot #\x9b\u202e\r"))
    command, comment = line.splitlines()
    assert r"--prompt 'a'\\'x01'\''; reboot #'\\'u009b'\\'u202e'\\'x0d' --compat --H" in command
    assert comment == (
        "# not the same image, because control characters are written as escapes: use sdcli rerun FILE for that"
    )
    settings = parsed(line, monkeypatch)
    assert settings.prompt == r"a\x01'; reboot #\u009b\u202e\x0d"
    assert settings.compat, "a backslash is not to be read as part of a template"
    foreign = command_of({"prompt": "\x1b"})
    assert (
        foreign == "sdcli txt2img --prompt "
        r"\\'x1b'"
        "\n# not exact, because control characters are written as escapes"
    )


SHELLS = {
    "dash": ["dash"], "bash": ["bash", "--norc"], "bash --posix": ["bash", "--posix"], "zsh": ["zsh", "-f"],
    "fish": ["fish", "--no-config"], "yash": ["yash", "--norcfile"], "mksh": ["mksh"], "ksh": ["ksh"],
    "busybox": ["busybox", "sh"],
}  # fmt: skip
SAFE = st.characters(exclude_categories=["Cs"]).filter(lambda character: printable(character) == character)
TEXTS = st.lists(
    st.one_of(
        st.text(st.one_of(st.sampled_from("'\\\"$`!#~=%@^&|;<>(){}[]*?-+:,./ \t\nanx0"), SAFE), max_size=12),
        st.sampled_from(["$'\\''", "\\'; echo x #", "'\\''", "=ls", "%self", "~root", "!!", "-n", "{a,b}", "''"]),
    ),
    min_size=150,
    max_size=150,
)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_reads_each_text_as_it_is(shell: str) -> None:
    """150 texts in each start of the shell, as prompts of one command each."""
    program = SHELLS[shell]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")

    @hypothesis.settings(max_examples=2, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @given(TEXTS)
    def check(texts: list[str]) -> None:
        commands = [command_of({"prompt": text, "from_file": None}) for text in texts]
        expected = [text for text in texts if text != default("prompt")]
        script = "\n".join(line.replace("sdcli txt2img", "show", 1) for line in commands)
        show = "function show; printf '%s\\0' $argv; end" if shell == "fish" else "show() { printf '%s\\0' \"$@\"; }"
        ended = subprocess.run(
            [*program, "-c", f"{show}\n{script}"],
            capture_output=True, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert ended.stderr == b""
        arguments = ended.stdout.decode().split("\0")[:-1]
        read = [word.removeprefix("--prompt=") for word in arguments if word != "--prompt"]
        assert read == expected

    check()


def noise(one: Job) -> np.ndarray:
    stream = BatchNoise([one], SHAPE, torch.device("cpu"))
    return np.stack([stream.initial().numpy(), stream.draw(0).numpy(), stream.draw(1).numpy()])


@hypothesis.settings(max_examples=40)
@given(
    rng=st.sampled_from(["cuda", "cpu"]),
    sampler=st.sampled_from(["ddim", "plms", "dpm_solver"]),
    n_samples=st.integers(1, 3),
    n_iter=st.integers(1, 3),
    fixed_code=st.booleans(),
    lines=st.integers(0, 5),
    data=st.data(),
)
def test_the_command_gives_the_same_noise_at_the_place_that_it_names(
    tmp_path_factory: pytest.TempPathFactory,
    rng: str,
    sampler: str,
    n_samples: int,
    n_iter: int,
    fixed_code: bool,
    lines: int,
    data: st.DataObject,
) -> None:
    """For a prompt, and for a file with a short last batch; for any image of the run."""
    source: dict[str, object] = {"prompt": "a cat"}
    if lines:
        path = tmp_path_factory.getbasetemp() / f"{lines}.txt"
        path.write_text("".join(f"prompt {number}\n" for number in range(lines)))
        source = {"from_file": str(path)}
    settings = Settings.of(
        rng=rng, sampler=sampler, n_samples=n_samples, n_iter=n_iter, fixed_code=fixed_code, steps=4, **source
    )
    one = data.draw(st.sampled_from(jobs(settings)))
    with pytest.MonkeyPatch.context() as patch:
        line = command_line(one, settings)
        again = jobs(parsed(line, patch))
        place = int(line.partition("# image ")[2].split()[0]) if "#" in line else len(again)
        assert place == len(again) if rng == "cuda" and "from-file" not in line else place <= len(again)
        found = again[place - 1]
        assert found.prompt == one.prompt
        assert np.array_equal(noise(found), noise(one))


def test_a_place_that_no_command_reaches_is_marked_in_the_comment() -> None:
    place = {"before": ((3, 51), (1, 51)), "rows": 3, "row": 1, "fixed_rows": 0}
    line = command_line(Job.model_validate(job().model_dump() | {"noise": place, "index": 5}))
    assert (
        line.splitlines()[1] == "# not the same image, which follows batches of several sizes: use sdcli rerun for that"
    )
