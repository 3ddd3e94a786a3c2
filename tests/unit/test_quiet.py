"""The libraries report nothing over the network, and print nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ORDER = """
import os, sys
seen = {}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "huggingface_hub", "diffusers", "transformers"):
            seen.setdefault(name, {key: value for key, value in os.environ.items() if "TELEMETRY" in key})
sys.meta_path.insert(0, Finder())
import sdcli, sdcli.cli
from sdcli.quiet import _NO_TELEMETRY
import importlib.util
importlib.util.find_spec("onnxruntime")
importlib.util.find_spec("huggingface_hub")
for name, variables in seen.items():
    print(name, variables["ORT_DISABLE_TELEMETRY"], variables["HF_HUB_DISABLE_TELEMETRY"])
"""


def _without_variables(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "TELEMETRY" not in name} | more


def test_telemetry_is_off_before_a_library_is_imported() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ORDER], env=_without_variables(), capture_output=True, text=True, check=True
    )
    assert sorted(ended.stdout.splitlines()) == ["huggingface_hub 1 1", "onnxruntime 1 1"]


def test_a_variable_of_the_user_keeps_its_value() -> None:
    code = "import os, sdcli.quiet; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['DO_NOT_TRACK'])"
    environment = _without_variables(ORT_DISABLE_TELEMETRY="0")
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "0 1\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_an_offline_run_opens_no_connection_and_writes_no_file_of_a_library(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    environment = _without_variables(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    environment.pop("HF_HUB_OFFLINE", None)
    ended = subprocess.run(
        [
            "strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", trace,
            sys.executable, "-m", "sdcli", "txt2img", "--prompt", "a cat", "--steps", "2",
            "--n_samples", "1", "--n_iter", "3", "--skip_grid",
            "--offline", "--quiet", "--outdir", "out",
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line or "AF_NETLINK" in line] == []
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"sdcli"}
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out", "trace"}


@pytest.mark.parametrize(("command", "threads"), [("sdcli", "1"), ("a_program", "None")])
def test_numpy_starts_no_threads_on_the_command_line(command: str, threads: str) -> None:
    """Where memory or threads are short, they would crash the import or interrupt the process."""
    code = f"import sys; sys.argv = [{command!r}]; import sdcli, os; print(os.environ.get('OPENBLAS_NUM_THREADS'))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == f"{threads}\n"
