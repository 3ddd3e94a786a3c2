"""Flags as hands know them: prompts without a flag, several prompts and seeds, flags of other tools, and what errors
repeat of what was typed.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdcli.settings import Settings

if TYPE_CHECKING:
    from tests.cli.conftest import Run


Parse = Callable[..., tuple[Settings, str]]


@pytest.fixture
def parse(refuse: Run, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """The settings of `sdcli txt2img ARGUMENTS`, which generates nothing, and what it prints on standard error."""
    kept: list[Settings] = []
    module = importlib.import_module("sdcli.txt2img")
    monkeypatch.setattr(module, "generate", lambda settings, *_: kept.append(settings) or [])

    def parse(*arguments: str, **environment: str) -> tuple[Settings, str]:
        ended = refuse("txt2img", *arguments, **environment)
        assert ended.returncode == 0, ended.stderr
        return kept[-1], ended.stderr

    return parse


def numbers(settings: Settings) -> tuple[int, int, int | None]:
    return settings.n_samples, settings.n_iter, settings.images_per_prompt


class TestPromptsWithoutAFlag:
    def test_one_prompt_is_one_image_without_a_grid(self, parse: Parse) -> None:
        settings, said = parse("a cat")
        assert (settings.prompt, settings.prompts, numbers(settings)) == ("a cat", ("a cat",), (3, 1, 1))
        assert not settings.has_grid(1)
        assert settings.has_grid(4)
        assert said == ""

    def test_n_is_the_number_of_images(self, parse: Parse) -> None:
        for number in (("-n", "4"), ("-n4",), ("--count", "4"), ("--num-images=4",), ("--images_per_prompt", "4")):
            assert numbers(parse("a cat", *number)[0]) == (3, 1, 4)
        assert numbers(parse("a cat", "--n_samples", "4")[0]) == (4, 1, None)
        assert numbers(parse("a cat", "--n_iter", "4")[0]) == (1, 4, None)

    def test_several_prompts(self, parse: Parse) -> None:
        assert parse("a cat", "a dog")[0].prompts == ("a cat", "a dog")
        assert parse("a cat", "dog")[0].prompts == ("a cat", "dog")
        assert parse("一只猫", "一只狗")[0].prompts == ("一只猫", "一只狗"), "no blank between words"
        assert parse("--steps", "5", "a cat", "--plms")[0].prompts == ("a cat",)
        assert parse("--", "-- a cat")[0].prompts == ("-- a cat",)

    def test_words_without_quotes_are_one_prompt(self, parse: Parse) -> None:
        settings, said = parse("3", "red", "apples")
        assert settings.prompts == ("3 red apples",)
        assert 'the words are read as one prompt, "3 red apples"; put each prompt in quotes' in said
        assert parse("3", "red", "apples", "--quiet")[1] == ""

    def test_the_prompt_of_a_weaker_source_is_replaced(self, parse: Parse, tmp_path: Path) -> None:
        for text in ('prompt = "a dog"', 'prompt = ["a dog", "a fox"]', 'from_file = "prompts.txt"'):
            (tmp_path / "own.toml").write_text(text)
            settings, _ = parse("a cat", "--config-file", "own.toml")
            assert (settings.prompt, settings.prompts, settings.from_file) == ("a cat", ("a cat",), None)
            settings, _ = parse("--prompt", "a cat", "--config-file", "own.toml")
            assert (settings.prompt, settings.prompts, settings.from_file) == ("a cat", None, None)
        assert numbers(parse("a cat", SDCLI_IMAGES_PER_PROMPT="5")[0]) == (3, 1, 5)
        assert numbers(parse("a cat", SDCLI_N_SAMPLES="5")[0]) == (5, 1, None)

    def test_resume_without_a_folder_before_a_prompt(self, parse: Parse) -> None:
        settings, _ = parse("--resume", "a cat")
        assert (settings.resume, settings.prompts) == ("", ("a cat",))

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--prompt", "a", "red", "apple"), '--prompt "a red apple"'),
            (("-p", "a", "cat"), '-p "a cat"'),
            (("a cat", "--prompt", "a dog"), "prompts without a flag and --prompt contradict each other"),
            (("a cat", "--from-file", "p.txt"), "prompts without a flag and --from-file contradict each other"),
            (("--from-file", "my", "prompts.txt"), '--from-file "my prompts.txt"'),
            (("-p", "a cat", "--prompts-file", "p.txt"), "-p and --prompts-file contradict each other"),
            (("--prompt", "a", "--prompt", "b", "--from-file", "p.txt"), "--prompt and --from-file contradict"),
            (("a cat", "512"), "'512' is not read as a prompt"),
            (("--plms", "true"), "'true' is not read as a prompt"),
            (("rows.csv",), "Pass it with --from-file"),
            (("photo.png", "as", "a", "painting"), "Image to image is not supported yet"),
            (("v1.ckpt",), "Pass it with --ckpt"),
            (("a cat", "a dog", "-o", "one.png"), "-o one.png takes one image"),
        ],
    )
    def test_what_is_no_prompt_is_refused(
        self, refuse: Run, tmp_path: Path, arguments: tuple[str, ...], says: str
    ) -> None:
        for name in ("rows.csv", "photo.png", "v1.ckpt"):
            (tmp_path / name).touch()
        refused = refuse("txt2img", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert says in refused.stderr


def test_prompt_is_as_in_the_original_and_may_be_repeated(parse: Parse) -> None:
    settings, _ = parse("--prompt", "a cat")
    assert (settings.prompt, settings.prompts, numbers(settings)) == ("a cat", None, (3, 2, None))
    assert settings.has_grid(1)
    settings, _ = parse("--prompt", "a cat", "-p", "a dog", "--text", "a fox")
    assert (settings.prompts, numbers(settings)) == (("a cat", "a dog", "a fox"), (3, 2, None))


def test_aliases_are_the_same_flags(parse: Parse) -> None:
    usual, _ = parse(
        "--prompt", "x", "--negative-prompt", "y", "--scale", "7", "--steps", "30", "--W", "64", "--H", "64",
        "--outdir", "o", "--format", "jpeg", "--sampler", "dpm_solver", "--skip_grid",
    )  # fmt: skip
    others, _ = parse(
        "-p", "x", "--negative", "y", "--cfg-scale", "7", "--num_inference_steps", "30", "-W64", "-H", "64",
        "--output-dir", "o", "--output-format", "JPG", "--sampling-method", "DPM-Solver", "--no-grid",
    )  # fmt: skip
    assert usual == others
    assert parse("--cfg=7")[0].scale == parse("--guidance", "7")[0].scale == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sampler", "DPM++ 2M Karras"),
        ("--sampler", "k_dpmpp_2m", "--scheduler", "Karras"),
        ("--sampler", "dpm++2m", "--schedule", "karras"),
        ("--sampling-method", "dpmpp_2m_k"),
        ("--sampler", "DPMSolverMultistepScheduler", "--schedule-type", "karras"),
    ],
)
def test_names_of_samplers_in_other_tools_are_the_same(parse: Parse, arguments: tuple[str, ...]) -> None:
    settings, said = parse("a cat", *arguments)
    assert (settings.sampler, settings.schedule, said) == ("dpmpp_2m", "karras", "")


class TestErrorsRepeatWhatWasTyped:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--steps", "0"), "--steps 0 is out of range"),
            (("--num-inference-steps=0",), "--num-inference-steps 0 is out of range"),
            (("--ddim-steps", "0"), "--ddim-steps 0 is out of range"),
            (("-n0",), "-n 0 is out of range"),
            (("--cfg", "much"), "--cfg 'much' is not valid\n  Pass a number."),
            (("--steps", "4.5"), "--steps '4.5' is not valid\n  Pass a whole number."),
            (("--sampler", "unpc"), "--sampler 'unpc' is not valid\n  Did you mean unipc?\n  Pass one of: auto, ddim,"),
            (("--sampler", "eulr"), "--sampler 'eulr' is not valid\n  Did you mean euler?\n  Pass one of: auto, ddim,"),
            (("--scheduler", "euler_a"), "--scheduler 'euler_a' is not valid\n  It is a sampler: --sampler euler_a.\n"),
            (("--sampler", "LMS Karras", "--scheduler", "beta"),
             "--sampler 'LMS Karras' contradicts --scheduler beta\n  The name stands for --scheduler karras.\n"),
            (("--sampler-name", "plms", "--eta", "0.5"), "--eta 0.5 cannot be used with the sampler plms"),
            (("--seed", "one"), "--seed 'one' is not valid"),
            (("-o", "x.gif"), "-o x.gif has the suffix .gif, which is no format of sdcli\n"
             "  Pass a name that ends in .png, .jpg, .jpeg, .webp, or no suffix."),
            (("--output", "x.xyz", "a cat"), "--output x.xyz has the suffix .xyz"),
            (("--format", "gif"), "--format 'gif' is not valid\n  Pass one of: png, jpeg, webp"),
            (("--seed", "1,2", "-n", "3"), "several seeds contradict -n 3"),
        ],
    )  # fmt: skip
    def test_flags(self, refuse: Run, arguments: tuple[str, ...], says: str) -> None:
        refused = refuse("txt2img", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"sdcli: {says}" in refused.stderr
        assert "ddim_steps" not in refused.stderr

    def test_other_sources_keep_their_origin(self, refuse: Run) -> None:
        refused = refuse("txt2img", SDCLI_STEPS="0")
        assert "--ddim_steps 0 is out of range\n  --ddim_steps is set by SDCLI_STEPS." in refused.stderr

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("txt2img --lora-scale 1", "unknown flag --lora-scale\n  Here it is --lora FILE:WEIGHT.\n"),
            ("txt2img --init-img x.png", "unknown flag --init-img\n  Image to image is not supported yet"),
            ("txt2img --vae-dir x", "unknown flag --vae-dir\n  Here it is --vae FILE"),
            ("txt2img --stpes 30", "unknown flag --stpes\n  Did you mean --steps?\n"),
            ("txt2img --nonsense", "unknown flag --nonsense\n  sdcli txt2img --help"),
            ("txt2img -s 30", "unknown flag -s\n  Here it is --steps N"),
            ("txt2img -steps 30", "unknown flag -steps\n  A long flag has two dashes: --steps\n"),
            ("txt2img -prompt cat", "unknown flag -prompt\n  A long flag has two dashes: --prompt\n"),
            ("txt2img --config-fil x", "unknown flag --config-fil\n  Did you mean --config-file?"),
            ("rerun --sett x a.png", "unknown flag --sett\n  Did you mean --set?"),
            ("--prompt cat", "unknown flag --prompt\n  --prompt is a flag of a command.\n"),
            ("txt2mg", "unknown command txt2mg\n  Did you mean txt2img?\n"),
            ("penguin", 'unknown command penguin\n  sdcli --help lists the commands. For an image of it: sdcli txt2img '
             '"penguin"\n'),
            ("rerun --set step=30 a.png", "--set step is not a setting of one image\n  Did you mean steps?\n"),
            ("rerun --set lora-scale=30 a.png", "--set lora-scale is not a setting of one image\n  Here it is --lora"),
            ("rerun --set seed=1,2 a.png", "--set seed=1,2 has several values"),
        ],
    )  # fmt: skip
    def test_what_does_not_exist(self, refuse: Run, tmp_path: Path, arguments: str, says: str) -> None:
        image = Path(__file__).parents[1] / "data/images/inj_own.png"
        refused = refuse(*arguments.replace("a.png", str(image)).split())
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"sdcli: {says}" in refused.stderr


class TestSeeds:
    def test_a_random_seed_is_printed(self, parse: Parse, tmp_path: Path) -> None:
        (tmp_path / "own.toml").write_text('seed = "random"')
        found = set()
        for arguments, environment in (
            (("--seed", "random"), {}),
            (("--seed", "-1"), {}),
            (("--seed=-1",), {}),
            (("--config-file", "own.toml"), {}),
            ((), {"SDCLI_SEED": "RANDOM"}),
        ):
            settings, said = parse("a cat", *arguments, **environment)
            assert said == f"sdcli: seed {settings.seed}\n"
            found.add(settings.seed)
        assert len(found) == 5, "each time another one"
        assert max(found) < 2**32

    def test_several_seeds(self, parse: Parse, tmp_path: Path) -> None:
        for spelled in ("1,2,3", "1-3", "1, 2-3"):
            settings, _ = parse("--prompt", "a cat", "--seed", spelled)
            assert (settings.seeds, settings.seed, settings.n_iter) == ((1, 2, 3), 1, 1)
        (tmp_path / "own.toml").write_text("seed = [1, 2]\n")
        assert parse("--config-file", "own.toml")[0].seeds == (1, 2)
        settings, _ = parse("--config-file", "own.toml", "--seed", "5")
        assert (settings.seeds, settings.seed) == (None, 5)
        (tmp_path / "own.toml").write_text("images_per_prompt = 4\nn_iter = 2\n")
        settings, _ = parse("--config-file", "own.toml", "--seed", "1,2")
        assert (settings.seeds, numbers(settings)) == ((1, 2), (3, 1, None)), "seeds replace the numbers"

    def test_a_step_sets_the_mode(self, parse: Parse) -> None:
        settings, _ = parse("--seed", "7", "--seed-step", "10")
        assert (settings.seed_mode, settings.seed_step) == ("image", 10)


@pytest.mark.slow
def test_a_run_of_two_prompts_with_random_seed_is_resumed(run: Run, tmp_path: Path) -> None:
    command = ("txt2img", "a cat", "a dog", "--seed", "random", "--steps", "1", "--safety-checker", "off")
    first = run(*command, "--outdir", "out")
    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == ["out/samples/00000.png", "out/samples/00001.png", "out/grid-0000.png"]
    (seed,) = re.findall(r"^sdcli: seed (\d+)$", first.stderr, re.MULTILINE)
    lines = [json.loads(line) for line in (tmp_path / "out/run-0000.jsonl").read_text().splitlines()]
    assert lines[0]["settings"]["prompts"] == ["a cat", "a dog"]
    assert lines[0]["settings"]["seed"] == int(seed)
    assert [(line["job"]["prompt"], line["job"]["seed"]) for line in lines if line["kind"] == "picture"] == [
        ("a cat", int(seed)),
        ("a dog", int(seed)),
    ]
    before = (tmp_path / "out/samples/00001.png").read_bytes()
    for again in ((*command, "--outdir", "out", "--resume"), ("txt2img", "--resume", "out")):
        (tmp_path / "out/samples/00001.png").unlink()
        resumed = run(*again)
        assert (resumed.returncode, resumed.stdout) == (0, "out/samples/00001.png\n"), resumed.stderr
        assert (tmp_path / "out/samples/00001.png").read_bytes() == before


@pytest.mark.slow
def test_one_prompt_is_one_file(run: Run, tmp_path: Path) -> None:
    ended = run("txt2img", "a cat", "--format", "jpg", "--steps", "1", "--safety-checker", "off", "--outdir", "out")
    assert (ended.returncode, ended.stdout) == (0, "out/samples/00000.jpg\n"), ended.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix) == ["run-0000.jsonl"]
