"""Completion: the protocol of the shells, and the shells themselves where they are installed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdcli.cli.completion import (
    COMPLETERS,
    adapters,
    any_models,
    checkpoints,
    folders,
    known_models,
    models,
    safety_models,
)
from sdcli.registry import SAMPLERS
from sdcli.settings import flags

if TYPE_CHECKING:
    from tests.cli.conftest import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints, folders and other files, and a hub's cache with one model; the current folder."""
    for name in (
        "models/ldm/v1.ckpt",
        "models/ldm/v2.SafeTensors",
        "models/ldm/notes.txt",
        "prompts.txt",
        ".git/x.ckpt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in (
        "models--org--model/snapshots/1/model_index.json",
        "models--org--check/snapshots/1/preprocessor_config.json",
    ):
        (tmp_path / "cache" / name).parent.mkdir(parents=True)
        (tmp_path / "cache" / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_files_and_folders(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other/v3.ckpt").touch()
    assert checkpoints("") == ["models/", "other/"], "folders that lead to checkpoints only"
    assert checkpoints("mo") == ["models/ldm/v1.ckpt", "models/ldm/v2.SafeTensors"]
    assert checkpoints("models/ldm/v1") == ["models/ldm/v1.ckpt"]
    assert checkpoints("./models/l") == ["./models/ldm/v1.ckpt", "./models/ldm/v2.SafeTensors"]
    assert checkpoints(f"{folder}/models/ldm/v1") == [f"{folder}/models/ldm/v1.ckpt"]
    assert checkpoints(".g") == [".git/x.ckpt"], "hidden files only by name"
    assert folders("models/") == ["models/ldm/"]
    assert folders("prompts") == checkpoints("none/") == folders("~nobody-of-this-name/") == []


def test_adapters(folder: Path) -> None:
    assert adapters("m") == ["models/ldm/v1.ckpt", "models/ldm/v2.SafeTensors"]
    (folder / "adapters/people").mkdir(parents=True)
    for name in ("ink.safetensors", "people/monet.pt", "notes.txt"):
        (folder / "adapters" / name).touch()
    assert adapters("") == ["ink", "monet", "adapters/", "models/"], "names in the default folder, then files"
    assert adapters("i") == ["ink"]
    assert adapters("adapters/p") == ["adapters/people/monet.pt"]


def test_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert checkpoints("~/mod") == ["~/models/ldm/v1.ckpt", "~/models/ldm/v2.SafeTensors"]


def test_names_that_need_quotes_are_left_to_the_shell(folder: Path) -> None:
    (folder / "my models").mkdir()
    (folder / "my models/v1.ckpt").touch()
    assert checkpoints("m") == []
    assert checkpoints("mo") == ["models/ldm/v1.ckpt", "models/ldm/v2.SafeTensors"]


def test_names_in_the_folders_of_models(folder: Path) -> None:
    (folder / "adapters").mkdir()
    for name in ("models/Dreamy.safetensors", "models/notes.txt", "models/my model.ckpt", "adapters/style.safetensors"):
        (folder / name).touch()
    (folder / "models/whole").mkdir()
    (folder / "models/whole/model_index.json").touch()
    assert checkpoints("D") == ["Dreamy"]
    assert "Dreamy" in models("")
    assert "my model" not in models("")
    assert models("w") == ["whole"]
    assert any_models("st") == ["style"]
    assert {"builtin", "org/model", "Dreamy", "whole", "style"} <= set(any_models(""))
    assert known_models("sdxl-t") == ["sdxl-turbo"]


def test_models(folder: Path) -> None:
    known = ["builtin", "builtin-fast", "org/model"]
    assert models("") == [*known, "cache/models--org--model/snapshots/1/"], "no folder without models"
    (folder / "models/sd/one").mkdir(parents=True)
    (folder / "models/sd/one/model_index.json").touch()
    (folder / "models/sd/one/unet").mkdir()
    assert models("") == [*known, "cache/", "models/"]
    assert models("models/") == ["models/sd/one/"]
    assert models("models/sd/one") == ["models/sd/one/"], "not the folders in a model"
    assert models("prompts") == models("models/ldm") == []
    (folder / "models/empty").mkdir()
    assert checkpoints("models/") == ["models/ldm/v1.ckpt", "models/ldm/v2.SafeTensors"]
    assert models("o") == ["org/model"]
    assert safety_models("o") == ["org/check"]


def test_every_setting_that_names_a_model_or_a_folder_has_its_completer() -> None:
    kinds = {line.path for _, line, _, _ in flags() if line.metavar in ("MODEL", "FOLDER", "[OUTDIR]") or line.repeats}
    assert kinds == {"model", "safety model", "adapter", "folder", "output folder"}
    assert kinds <= COMPLETERS.keys()


Complete = Callable[[str, str], list[str]]


@pytest.fixture
def complete(folder: Path, refuse: Run) -> Complete:
    """What a shell gets when the user presses Tab at the end of a line."""

    def complete(shell: str, line: str) -> list[str]:
        words = shlex.split(line) + [""] * line.endswith(" ")
        ended = refuse(
            _SDCLI_COMPLETE=f"complete_{shell}", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1),
            _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args",
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout.splitlines()

    return complete


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("sdcli conf", ["config"]),
        ("sdcli txt2img --sampler ", ["auto", *SAMPLERS]),
        ("sdcli txt2img --plms --safety_checker o", ["opennsfw", "off"]),
        ("sdcli txt2img --n_s", ["--n_samples"]),
        ("sdcli txt2img --n-s", ["--n-samples"]),
        ("sdcli txt2img --config", ["--config", "--config-file"]),
        ("sdcli txt2img --model o", ["org/model"]),
        ("sdcli txt2img --ckpt models/ldm/v1", ["models/ldm/v1.ckpt"]),
        ("sdcli txt2img --from-file p", []),
        ("sdcli config --in", ["--init"]),
        ("sdcli txt2img --format j", ["jpeg"]),
        ("sdcli rerun --set st", ["steps=", "steps=N"]),
        ("sdcli rerun --set sampler=p", ["sampler=plms"]),
        ("sdcli rerun --set nothing", []),
    ],
)
def test_by_the_protocol_of_bash(complete: Complete, line: str, answer: list[str]) -> None:
    assert [word for word in complete("bash", line) if word] == answer


def test_by_the_protocols_of_zsh_and_fish(complete: Complete) -> None:
    (zsh,) = complete("zsh", "sdcli txt2img --precision f")
    assert zsh == """_arguments '*: :(("full"))'"""
    assert complete("zsh", "sdcli txt2img --from-file p") == ["_files"]
    assert complete("fish", "sdcli txt2img --rng ") == ["cuda", "cpu"]
    assert complete("fish", "sdcli txt2img --skip-s") == ["--skip-save\tDo not save the single images."]


def script(refuse: Run, shell: str, folder: Path) -> dict[str, str]:
    """Write the script that a shell sources; an environment in which `sdcli` is a command."""
    printed = refuse(_SDCLI_COMPLETE=f"source_{shell}")
    assert printed.returncode == 0, printed.stderr
    (folder / "script").write_text(printed.stdout)
    command = folder / "bin/sdcli"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sdcli "$@"\n')
    command.chmod(0o755)
    return os.environ | {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}


def test_in_bash(refuse: Run, folder: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    lines = """
        source ./script
        complete -p sdcli
        tab() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sdcli_completion sdcli; echo "${COMPREPLY[@]}"; }
        tab sdcli txt2img --prompt "'a red apple'" --on-unsafe ''
        tab sdcli txt2img --ckpt mod
        tab sdcli txt2img --from-file pro
    """
    ended = subprocess.run(
        [bash, "--norc", "-c", lines],
        env=script(refuse, "bash", folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "complete -o default -F _sdcli_completion sdcli",
        "replace blur skip keep",
        "models/ldm/v1.ckpt models/ldm/v2.SafeTensors",
        "",  # `-o default`: bash completes the file
    ]


def test_in_zsh(refuse: Run, folder: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    # Off a terminal zsh has no completion system; two functions stand in for it.
    lines = """
        compdef() { print -r -- "compdef $*" }
        _arguments() { print -r -- "$*" }
        source ./script
        words=(sdcli txt2img --sampler p); CURRENT=4
        _sdcli_completion
    """
    ended = subprocess.run(
        [zsh, "-f", "-c", lines], env=script(refuse, "zsh", folder), capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["compdef _sdcli_completion sdcli", '*: :(("plms"))']


def test_in_fish(refuse: Run, folder: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    lines = "source ./script; complete -C 'sdcli txt2img --sampler dpmpp_2'"
    ended = subprocess.run(
        [fish, "--no-config", "-c", lines],
        env=script(refuse, "fish", folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.split() == ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s"]


def test_nothing_heavy_is_imported(folder: Path) -> None:
    probe = """
import os, sys
from sdcli.cli import main
for setting in ("sampler", "model", "lora"):
    os.environ["_TYPER_COMPLETE_ARGS"] = f"sdcli txt2img --{setting} "
    try:
        main()
    except SystemExit as left:
        assert not left.code
    heavy = {"torch", "diffusers", "transformers", "cv2", "onnxruntime", "httpx"} & sys.modules.keys()
    assert not heavy, f"--{setting} imports {heavy}"
"""
    environment = os.environ | {"_SDCLI_COMPLETE": "complete_zsh"}
    ended = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("_arguments") == 3
