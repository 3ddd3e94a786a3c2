"""How command-line tests run `sdcli`.

    run(...)          a process forked from one that has imported everything; the ordinary way
    refuse(...)       main() in the test's own process, for what ends before anything is loaded
    run_python(...)   `python -m sdcli` in a new process, where the start itself is tested
    sdcli(...)        `run` for `txt2img` with little to generate; sdcli.start(...) does not wait for it

A forked process has its own standard streams, working folder and environment; it ends with a real exit code and can be
killed. What a library reads from the environment while it is imported (HF_HUB_OFFLINE, HF_ENDPOINT) is as it was when
the server started: a test that changes it needs `run_python`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SERVER = Path(__file__).with_name("fork_server.py")
TIMEOUT = 600.0
"""Seconds that a command may take."""


class Ended(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class RunningProcess:
    """A command that runs in a process of its own; its standard streams are the files `1` and `2` in `streams`."""

    def __init__(self, server: ForkServer, child: int, streams: Path) -> None:
        self.server = server
        self.child = child
        self.streams = streams
        self.began = time.monotonic()
        self._code: int | None = None

    @property
    def stdout(self) -> str:
        return self._read("1")

    @property
    def stderr(self) -> str:
        return self._read("2")

    def _read(self, name: str) -> str:
        with (self.streams / name).open(encoding="utf-8", newline="") as file:
            return file.read()

    @property
    def paths(self) -> list[str]:
        """The lines of standard output."""
        return self.stdout.splitlines()

    def wait(self, seconds: float = TIMEOUT) -> RunningProcess:
        """Wait for its end; kill it after so many seconds."""
        if self._code is None:
            self._code = self.server.request("wait", child=self.child, seconds=seconds)
        if self._code is None:
            os.kill(self.child, signal.SIGKILL)
            pytest.fail(f"the command ran for {seconds:.0f} seconds\n{self.stderr}")
        return self

    @property
    def code(self) -> int:
        """The exit code, or -N after the signal N; waits for it."""
        self.wait()
        assert self._code is not None
        return self._code

    def alive(self) -> bool:
        if self._code is None:
            self._code = self.server.request("wait", child=self.child, seconds=0)
        return self._code is None

    def send(self, number: int) -> None:
        """Send a signal. The process must not be waited for yet, or its number may belong to another one."""
        assert self._code is None
        os.kill(self.child, number)

    def until(self, condition: Callable[[], Any]) -> RunningProcess:
        """Wait for a condition that is to become true while the process lives."""
        while not condition():
            assert self.alive(), self.stderr
            assert time.monotonic() - self.began < TIMEOUT, self.stderr
            time.sleep(0.005)
        return self

    def until_saved(self, images: int) -> RunningProcess:
        """Wait until it has written the paths of so many images to standard output."""
        return self.until(lambda: len(self.paths) >= images)


class ForkServer:
    """Starts processes.

    Args:
        folder: for the standard streams of the processes.
        environment: of the server, beside that of the tests.
        launcher: a command line that starts the server with other rights or on another file system.
    """

    def __init__(self, folder: Path, environment: dict[str, str], launcher: Sequence[str] = ()) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.started = 0
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-P", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == "1\n", "the server did not start, or has threads and cannot fork"

    def shell(self, command: str) -> None:
        """Run a shell command with the rights and the file systems of the processes."""
        assert self.request("shell", command=command) == 0, command

    def request(self, do: str, **what: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        *arguments: str | Path,
        cwd: Path,
        stdin: Path | str = os.devnull,
        stdout: Path | str | None = None,
        file_size: int | None = None,
        before: str = "",
        environment: dict[str, str] | None = None,
    ) -> RunningProcess:
        """Start `sdcli ARGUMENTS`.

        Args:
            arguments: of the command line.
            cwd: working folder.
            stdin: file that is its standard input.
            stdout: file that is its standard output; by default a new one.
            file_size: the size in bytes beyond which it cannot write a file; None: no limit.
            before: Python code that the process executes first.
            environment: variables beside those of the tests.
        """
        streams = self.folder / str(self.started)
        self.started += 1
        streams.mkdir()
        child = self.request(
            "start", arguments=[*map(str, arguments)], cwd=str(cwd), file_size=file_size, before=before,
            environment=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
            # Each stream has a file of its own: two in one would overwrite each other.
            streams=[str(stdin), str(stdout or streams / "1"), str(streams / "2")],
        )  # fmt: skip
        for name in ("1", "2"):
            (streams / name).touch()
        return RunningProcess(self, child, streams)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


@pytest.fixture(scope="session")
def new_fork_server(user_folders: dict[str, str]) -> Callable[..., ForkServer]:
    """`new_fork_server(folder, launcher)`: a further server, for a test that needs other rights; close it."""
    return lambda folder, launcher=(): ForkServer(folder, user_folders, launcher)


@pytest.fixture(scope="session")
def fork_server(
    new_fork_server: Callable[..., ForkServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForkServer]:
    """One for all tests of this (xdist) process."""
    server = new_fork_server(tmp_path_factory.mktemp("processes") / "streams")
    yield server
    server.close()


Run = Callable[..., Ended]


@pytest.fixture
def run(fork_server: ForkServer, tmp_path: Path) -> Run:
    """`run(*arguments, **environment)`: `sdcli ARGUMENTS` off a terminal, in the test's empty folder."""

    def run(*arguments: str | Path, **environment: str) -> Ended:
        process = fork_server.start(*arguments, cwd=tmp_path, environment=environment).wait()
        return Ended(process.code, process.stdout, process.stderr)

    return run


@pytest.fixture
def run_python(tmp_path: Path) -> Run:
    """As `run`, in a new process: `python -m sdcli ARGUMENTS`."""

    def run_python(*arguments: str | Path, **environment: str) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "sdcli", *map(str, arguments)], cwd=tmp_path, env=os.environ | environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run_python


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """As `run`, in this process; for commands that end before anything is loaded."""
    from sdcli.cli import main

    environ = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def refuse(*arguments: str | Path, **environment: str) -> Ended:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["sdcli", *map(str, arguments)])
        os.environ.update(environment)
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            os.environ.clear()
            os.environ.update(environ)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, *capfd.readouterr())

    return refuse


class Sdcli:
    """`sdcli txt2img` with as little to generate as possible, in the folder of a test."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def start(self, *arguments: str | Path, **how: Any) -> RunningProcess:
        """Start it with one step and without safety checker, unless the arguments say otherwise."""
        few = {"--steps": "1", "--safety-checker": "off"}
        added = [word for flag, value in few.items() if flag not in arguments for word in (flag, value)]
        return self.plain(*added, *arguments, **how)

    def plain(self, *arguments: str | Path, **how: Any) -> RunningProcess:
        """Start it with these arguments alone; `how` is for `ForkServer.start`."""
        return self.server.start("txt2img", *arguments, **({"cwd": self.folder} | how))

    def __call__(self, *arguments: str | Path, code: int = 0, **how: Any) -> RunningProcess:
        """As `start`, then wait for its end with this exit code."""
        ended = self.start(*arguments, **how).wait()
        assert ended.code == code, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    def write(self, name: str, *lines: str) -> str:
        """Write a file of these lines; its name."""
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))
        return name


@pytest.fixture(scope="session")
def sdcli_in(fork_server: ForkServer) -> Callable[[Path], Sdcli]:
    """`sdcli_in(folder)`: for fixtures that are shared by tests."""
    return lambda folder: Sdcli(fork_server, folder)


@pytest.fixture
def sdcli(fork_server: ForkServer, tmp_path: Path) -> Sdcli:
    return Sdcli(fork_server, tmp_path)
