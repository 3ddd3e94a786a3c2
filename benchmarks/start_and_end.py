"""Measures what a user waits for around a run: the first words, and the end of the process after the last path.

    python benchmarks/start_and_end.py [--runs 3]

Runs `sdcli txt2img` and the same run in a Python program, which frees every object at its end as Python does, in turn.
Prints the shortest times of each as JSON, in seconds, and the ratio of the two ends.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAGS = ("txt2img", "--prompt", "a red apple", "--steps", "2", "--n_samples", "1", "--n_iter", "1", "--skip_grid")
PROGRAM = "import sys; from sdcli.cli import main; sys.argv[0] = 'program'; main()"


def times(command: list[str], folder: str) -> dict[str, float]:
    """Seconds from the start to the first words on standard error, and from the last path to the end."""
    start = time.monotonic()
    run = subprocess.Popen([*command, *FLAGS], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout
    assert run.stderr
    first = last = 0.0
    with selectors.DefaultSelector() as selector:
        for stream in (run.stdout, run.stderr):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                written, now = os.read(key.fd, 2**16), time.monotonic() - start
                if not written:
                    selector.unregister(key.fileobj)
                elif key.fileobj is run.stdout:
                    last = now
                else:
                    first = first or now
    _, status, _ = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0, run.returncode
    return {"first_words": first, "end": time.monotonic() - start - last}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    ways = {"sdcli": [str(Path(sys.executable).with_name("sdcli"))], "program": [sys.executable, "-c", PROGRAM]}
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.runs):
            for name, command in ways.items():
                for what, seconds in times(command, folder).items():
                    shortest = best.setdefault(name, {})
                    shortest[what] = min(seconds, shortest.get(what, seconds))
    ratio = best["program"]["end"] / best["sdcli"]["end"]
    rounded = {name: {what: round(seconds, 3) for what, seconds in each.items()} for name, each in best.items()}
    print(json.dumps({**rounded, "end_ratio": round(ratio, 1)}))


if __name__ == "__main__":
    main()
