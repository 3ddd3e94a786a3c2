"""`sdcli config`, and settings from files and the environment."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdcli.settings import Settings

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import SmallCheckpoint


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the user's file, in the folder of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home/sdcli/sdcli.toml"


def test_init_writes_a_file_once(run: Run, user_file: Path) -> None:
    printed = run("config", "--path")
    assert (printed.returncode, printed.stdout, printed.stderr) == (0, f"{user_file}\n", "")
    assert not user_file.exists()
    written = run("config", "--init")
    assert (written.returncode, written.stdout, written.stderr) == (0, f"{user_file}\n", "")
    text = user_file.read_text()
    assert tomllib.loads(text) == {}
    assert "\n# n_iter = 2\n" in text
    user_file.write_text("steps = 30\n")
    again = run("config", "--init")
    assert (again.returncode, again.stdout) == (7, "")
    assert "already exists" in again.stderr
    assert user_file.read_text() == "steps = 30\n"
    assert [path.name for path in user_file.parent.iterdir()] == ["sdcli.toml"]


def test_help_fits_80_columns(refuse: Run) -> None:
    text = refuse("config", "--help", COLUMNS="80").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_every_setting_at_its_default(run: Run, user_file: Path) -> None:
    shown = run("config")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert f"{len(Settings.model_fields)} settings are at their defaults" in shown.stderr
    assert f"{user_file} does not exist" in shown.stderr
    assert run("config", "--quiet").stderr == ""


def test_values_and_their_sources(run: Run, user_file: Path, tmp_path: Path) -> None:
    user_file.parent.mkdir(parents=True)
    user_file.write_text('n_samples = 1\nplms = true\nprompt = "a [bold]fox[/]"\n')
    (tmp_path / "b.toml").write_text('\nddim-steps = 20\nckpt = "b.ckpt"\n')
    environment = {"SDCLI_CONFIG_FILE": "b.toml", "SDCLI_SEED": "7", "COLUMNS": "80"}
    shown = run("config", **environment)
    assert (shown.returncode, "\x1b" in shown.stdout) == (0, False)
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[0] == ["setting", "value", "from"]
    assert ["steps", "20", "b.toml,", "line", "2"] in rows
    assert ["ckpt", '"b.ckpt"', "b.toml,", "line", "3"] in rows
    assert ["seed", "7", "SDCLI_SEED"] in rows
    assert '"a [bold]fox[/]"' in shown.stdout
    assert not any(row and row[0] == "eta" for row in rows)
    everything = run("config", "--all", "--config-file", "b.toml", COLUMNS="80")
    assert max(map(len, everything.stdout.splitlines())) <= 80
    assert ["eta", "0.0", "default"] in [line.split() for line in everything.stdout.splitlines()]
    assert everything.stderr == ""

    output = json.loads(run("config", "--json", **environment).stdout)
    assert output.keys() == set(Settings.model_fields)
    by_default = [setting["origin"]["kind"] == "default" for setting in output.values()]
    assert by_default == sorted(by_default), "defaults come last"
    assert output["seed"] == {"value": 7, "origin": {"kind": "environment", "name": "SDCLI_SEED", "line": None}}
    assert output["steps"] == {"value": 20, "origin": {"kind": "config file", "name": "b.toml", "line": 2}}
    assert output["sampler"] == {"value": "plms", "origin": {"kind": "user file", "name": str(user_file), "line": 2}}
    assert output["eta"] == {"value": 0.0, "origin": {"kind": "default", "name": "", "line": None}}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["config", "--path", "--init"], {}, 2, ["--path and --init cannot be combined"]),
        (["config", "--config-file", "wrong.toml"], {}, 2, ["stpes in wrong.toml, line 2", "Did you mean steps"]),
        (["txt2img", "--config-file", "wrong.toml"], {}, 2, ["stpes in wrong.toml, line 2", "Did you mean steps"]),
        (["txt2img", "--config_file=none.toml"], {}, 3, ["none.toml", "No such file"]),
        (["txt2img"], {"SDCLI_CONFIG_FILE": "none.toml"}, 3, ["none.toml"]),
        (["txt2img"], {"SDCLI_STEP": "3"}, 2, ["SDCLI_STEP", "SDCLI_STEPS"]),
        (["txt2img"], {"SDCLI_H": "99"}, 2, ["--H 99", "--H is set by SDCLI_H."]),
    ],
)  # fmt: skip
def test_errors_before_anything_is_loaded(
    refuse: Run, tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, says: list[str]
) -> None:
    (tmp_path / "wrong.toml").write_text("# mine\nstpes = 30\n")
    failed = refuse(*arguments, **environment)
    assert (failed.returncode, failed.stdout) == (code, "")
    for words in says:
        assert words in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_an_image_with_settings_from_every_source(run: Run, user_file: Path, small_checkpoint: SmallCheckpoint) -> None:
    """Each setting from another place; a file in the working folder is not read."""
    user_file.parent.mkdir(parents=True)
    user_file.write_text('steps = 9\nskip_grid = true\nplms = true\nn_iter = 1\nn_samples = 1\noutdir = "out"\n')
    Path(user_file.parents[2] / "sdcli.toml").write_text("seed = 99\n")
    folder = user_file.parent / "models"
    folder.mkdir()
    (folder / "small.ckpt").symlink_to(small_checkpoint.ckpt)
    (folder / "small.toml").write_text(
        f'ckpt = "small.ckpt"\nconfig = "{small_checkpoint.config}"\nH = 128\nW = 128\nsteps = 8\n'
    )
    ended = run(
        "txt2img", "--config-file", folder / "small.toml", "--sampler", "ddim", "--json", "--prompt", "a cat",
        SDCLI_STEPS="2", SDCLI_PRECISION="full",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (record,) = map(json.loads, ended.stdout.splitlines())
    assert record["file"] == "out/samples/00000.png"
    job = record["job"]
    assert (job["prompt"], job["steps"], job["sampler"], job["seed"]) == ("a cat", 2, "ddim", 42)
    assert job["model"] == "small.ckpt"
