"""What only a new process shows: the ways to start sdcli, and the libraries' own messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdcli.version import VERSION

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_the_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("sdcli")
    ended = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"sdcli {VERSION}\n", "")


def test_python_m_and_libraries_that_print_nothing(run_python: Run) -> None:
    """A prompt longer than the model reads, at which transformers prints a warning unless main() turns that off."""
    prompt = "word " * 90
    ended = run_python(
        "txt2img", "--prompt", prompt, "--dry-run", "--json", "--quiet", "--n_samples", "1", "--n_iter", "1"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["job"]["prompt"] == prompt
