"""`sdcli inspect` of image files of other tools."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tests.foreign import FILES

if TYPE_CHECKING:
    from tests.cli.conftest import Run

TOOLS = {
    "novelai.png": "NovelAI", "fooocus.png": "Fooocus", "swarmui.png": "SwarmUI", "drawthings.png": "Draw Things",
    "easydiffusion.png": "Easy Diffusion", "stealth.png": "NovelAI",
}  # fmt: skip


def test_a_file_of_each_tool(run: Run, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    shown = run("inspect", "--json", *FILES)
    assert (shown.returncode, shown.stderr) == (0, "")
    values = {line["file"]: line for line in map(json.loads, shown.stdout.splitlines())}
    assert {name: line["tool"] for name, line in values.items()} == TOOLS
    assert all(line["unknown"] == [] for line in values.values())
    commands = run("inspect", "--command", *FILES)
    assert commands.returncode == 0
    for name, line in zip(FILES, commands.stdout.splitlines(), strict=True):
        words = shlex.split(line)
        assert words[words.index("--prompt") + 1] == values[name]["settings"]["prompt"]
        assert words[words.index("--seed") + 1] == str(values[name]["settings"]["seed"])
        assert f"{name}: " in commands.stderr
    assert run("inspect", *FILES).returncode == 0
