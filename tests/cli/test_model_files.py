"""`sdcli models list`, `info`, `fetch`, `convert`, `lock` and `verify`."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sdcli.inventory import download, known
from tests.file_server import CONTENT, NAME, SHA256, Server

if TYPE_CHECKING:
    from tests.cli.conftest import Run


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a LoRA, a page that was saved instead of a model, and a tensor; no models of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    (tmp_path / "models").mkdir()
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / NAME).write_bytes(CONTENT)
    (tmp_path / "models/a page.safetensors").write_text("<html>")
    save_file({"x": torch.ones(1_000)}, tmp_path / "models/tensor.safetensors")
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PAUSE", 0)
    here = Server()
    yield here
    here.server.shutdown()
    here.server.server_close()


def test_the_list(refuse: Run, files: Path) -> None:
    ended = refuse("models", "list")
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = {columns[0]: columns for columns in (line.split("\t") for line in ended.stdout.splitlines())}
    assert [*rows] == ["builtin", "builtin-fast", "a page.safetensors", "tensor.safetensors", NAME]
    assert {len(columns) for columns in rows.values()} == {6}
    assert rows["builtin"][1:5] == ["model", "builtin", "60.3 MB", "float16"]
    assert rows[NAME][1:] == ["LoRA", "", "160.2 KB", "float32", f"adapters/{NAME}"]
    assert "It is a web page" in rows["a page.safetensors"][2]
    values = [json.loads(line) for line in refuse("models", "list", "--json").stdout.splitlines()]
    assert values[-1]["bytes"] == len(CONTENT)
    assert values[2]["problem"] == rows["a page.safetensors"][2]
    empty = refuse("models", "list", "--models-folder", "none", SDCLI_ADAPTERS="none")
    assert [line.split("\t")[0] for line in empty.stdout.splitlines()] == ["builtin", "builtin-fast"]


def test_info_shows_each_whether_or_not_another_one_fails(refuse: Run, files: Path) -> None:
    ended = refuse("models", "info", "builtin", "nothing", "style")
    assert ended.returncode == 4
    assert "there is no file, no folder and no model nothing on this machine" in ended.stderr
    for text in ("v prediction", "256 x 256 pixels", "CLIPTextModel", "mit", "sdcli txt2img --prompt"):
        assert text in ended.stdout
    assert f"sdcli txt2img --ckpt CHECKPOINT --lora adapters/{NAME} --prompt 'a castle'" in ended.stdout
    (values,) = map(json.loads, refuse("models", "info", "style", "--json").stdout.splitlines())
    assert (values["hash"], values["parts"][0]["parameters"]) == (SHA256, 40_000)


def test_known_names(refuse: Run) -> None:
    rows = [line.split("\t") for line in refuse("models", "fetch").stdout.splitlines()]
    assert [row[0] for row in rows] == [*known.by_name()]
    assert ["sd-1.5", "4.27 GB", "CreativeML Open RAIL-M", "Stable Diffusion 1.5"] in rows
    values = [json.loads(line) for line in refuse("models", "fetch", "--json").stdout.splitlines()]
    assert [each["name"] for each in values] == [*known.by_name()]


def test_a_file_is_fetched(refuse: Run, server: Server, files: Path) -> None:
    server.break_at = [50_000, 30_000, 20_000]
    ended = refuse("models", "fetch", f"{server.url}?token=secret", "--sha256", SHA256.upper(), "--yes")
    assert (ended.returncode, ended.stdout) == (0, f"models/{NAME}\n")
    assert (files / "models" / NAME).read_bytes() == CONTENT
    lines = ended.stderr.splitlines()
    assert lines[0] == f"sdcli: {NAME}: 160.2 KB, licence not known"
    assert lines[1:3] == [f"sdcli: from {server.url}", f"  to models/{NAME}"]
    assert sum("broke off" in line for line in lines) == 3
    assert lines[-1] == f"sdcli: to use it: sdcli txt2img --ckpt CHECKPOINT --lora models/{NAME} --prompt 'a castle'"
    assert "secret" not in ended.stderr

    again = refuse("models", "fetch", server.url, "--sha256", SHA256, "--yes", "--json", "--quiet")
    values = json.loads(again.stdout)
    assert (values["path"], values["sha256"], values["bytes"]) == (f"models/{NAME}", SHA256, len(CONTENT))
    assert (again.returncode, again.stderr) == (0, "")
    other = refuse("models", "fetch", server.url, "--yes")
    assert (other.returncode, other.stdout) == (7, "")
    assert f"models/{NAME} already exists" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, f"nobody can be asked whether to download {NAME}"),
        (("--yes", "--sha256", "12"), 2, "--sha256 12 is no hash"),
        (("--yes", "--name", "x.ckpt"), 2, "x.ckpt is a pickle"),
        (("--yes", "--offline"), 4, "is not downloaded"),
        (("--yes", "--sha256", "0" * 64), 4, "is another file than it should be"),
    ],
)
def test_what_is_not_fetched(
    refuse: Run, server: Server, files: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = refuse("models", "fetch", server.url, *arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert message in ended.stderr
    assert sorted(path.name for path in (files / "models").iterdir()) == ["a page.safetensors", "tensor.safetensors"]


def test_a_server_without_the_file(refuse: Run, server: Server, files: Path) -> None:
    server.status = [404]
    ended = refuse("models", "fetch", server.url, "--yes")
    assert ended.returncode == 4
    assert "The server answers 404 Not Found." in ended.stderr
    ended = refuse("models", "fetch", "no-such-name")
    assert (ended.returncode, "or one of these names: sd-1.4, sd-1.5" in ended.stderr) == (4, True)


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("", 1), ("y", 0)])
def test_the_question(
    refuse: Run, server: Server, files: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    controller, terminal = pty.openpty()
    os.write(controller, f"{answer}\n".encode())
    with os.fdopen(terminal) as stdin, os.fdopen(os.dup(terminal), "w") as stderr:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        ended = refuse("models", "fetch", server.url)
        stderr.write("\n")
        stderr.flush()
        shown = ""
        while "Download it? [y/N]" not in shown:
            shown += os.read(controller, 100_000).decode()
    os.close(controller)
    assert f"to models/{NAME}" in shown
    assert (ended.returncode, (files / "models" / NAME).exists()) == (code, code == 0)


def test_lock_and_verify(refuse: Run, files: Path) -> None:
    ended = refuse("models", "lock")
    assert (ended.returncode, ended.stdout) == (0, "models.lock.json\n")
    assert "3 files" in ended.stderr
    whole = refuse("models", "verify")
    assert whole.returncode == 0
    assert f"ok\tadapters/{NAME}" in whole.stdout.splitlines()
    assert refuse("models", "lock").returncode == 7
    (files / "adapters" / NAME).write_bytes(CONTENT[:-1] + b"x")
    (files / "models/tensor.safetensors").unlink()
    changed = refuse("models", "verify", "models.lock.json")
    assert changed.returncode == 4
    assert "2 of 3 files in models.lock.json changed or are missing" in changed.stderr
    values = [json.loads(line) for line in refuse("models", "verify", "--json").stdout.splitlines()]
    assert {each["path"]: each["state"] for each in values} == {
        "models/a page.safetensors": "ok", "models/tensor.safetensors": "missing", f"adapters/{NAME}": "changed",
    }  # fmt: skip
    own = refuse("models", "lock", "mine.json", "--model", "style", "--json")
    sha256 = hashlib.sha256((files / "adapters" / NAME).read_bytes()).hexdigest()
    assert json.loads(own.stdout)["sha256"] == sha256
    assert refuse("models", "verify", "no.json").returncode == 3


def test_convert(run: Run, files: Path) -> None:
    ended = run("models", "convert", "models/tensor.safetensors", "half.safetensors", "--half")
    assert (ended.returncode, ended.stdout) == (0, "half.safetensors\n"), ended.stderr
    assert "float16, 2.1 KB; every tensor is verified" in ended.stderr
    assert torch.equal(load_file(files / "half.safetensors")["x"], torch.ones(1_000).half())
    for arguments, code in (
        (("half.safetensors", "half.safetensors"), 7),
        (("half.safetensors", "x.safetensors", "--half", "--dtype", "float32"), 2),
        (("half.safetensors", "folder"), 4),
        (("no.ckpt", "x.safetensors"), 4),
    ):
        assert run("models", "convert", *arguments).returncode == code
    assert sorted(path.name for path in files.iterdir()) == ["adapters", "half.safetensors", "models"]
