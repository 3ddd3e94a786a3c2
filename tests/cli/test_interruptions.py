"""Runs that end early: signals, closed pipes, full disks. What is saved stays, and --resume generates the rest."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.runs import check_outdir, hidden, lines, pause_at, samples

if TYPE_CHECKING:
    from tests.cli.conftest import ForkServer, RunningProcess, Sdcli

COMMAND = ("--prompt", "a red apple", "--n_samples", "2", "--n_iter", "4", "--outdir", "out")
IMAGES = 8


@pytest.fixture(scope="module")
def whole(sdcli_in: Callable[[Path], Sdcli], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The images of `COMMAND` if nothing stops it."""
    folder = tmp_path_factory.mktemp("whole")
    sdcli_in(folder)(*COMMAND)
    assert len(check_outdir(folder / "out")) == IMAGES + 1
    return samples(folder / "out")


Pause = Callable[..., "RunningProcess"]


@pytest.fixture
def paused(sdcli: Sdcli, tmp_path: Path) -> Pause:
    """Start `COMMAND`, which generates its second batch until there is a file `continue`."""

    def paused(*arguments: str, **how: object) -> RunningProcess:
        return sdcli.start(*COMMAND, *arguments, before=pause_at(2), **how).until((tmp_path / "paused").exists)

    return paused


def check_kept(stopped: RunningProcess, out: Path, whole: dict[str, bytes]) -> None:
    """Check that a run that failed left complete images, among them all that it reported, and a complete journal."""
    files = samples(out)
    assert {Path(path).name for path in stopped.paths} <= set(files)
    assert 0 < len(files) < IMAGES
    assert files == {name: whole[name] for name in files}
    images = [line["file"] for line in lines(out) if line["kind"] == "picture"]
    # The line is written first: of the last image there may be no more than that.
    assert [f"samples/{name}" for name in sorted(files)] in (images, images[:-1])
    assert hidden(out) == []
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "terminal"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_keeps_what_is_saved(
    sdcli: Sdcli, paused: Pause, tmp_path: Path, whole: dict[str, bytes], number: int, code: int, message: str
) -> None:
    run = paused("--quiet")
    run.send(number)
    assert run.code == code, run.stderr
    assert message in run.stderr
    assert "--resume" in run.stderr
    check_kept(run, tmp_path / "out", whole)
    rest = sdcli(*COMMAND, "--resume", "--quiet")
    assert rest.stderr == ""
    assert not set(rest.paths) & set(run.paths)
    assert samples(tmp_path / "out") == whole
    assert len(check_outdir(tmp_path / "out")) == IMAGES + 1


@pytest.mark.slow
def test_the_reader_of_standard_output_closes_it(sdcli: Sdcli, tmp_path: Path, whole: dict[str, bytes]) -> None:
    """As with `| head -1`."""
    os.mkfifo(tmp_path / "pipe")
    run = sdcli.start(*COMMAND, stdout=tmp_path / "pipe", before=pause_at(2))
    with (tmp_path / "pipe").open() as reader:
        assert reader.readline() == "out/samples/00000.png\n"
    (tmp_path / "continue").touch()
    assert run.code == 141, run.stderr
    assert "BrokenPipe" not in run.stderr
    check_kept(run, tmp_path / "out", whole)
    sdcli(*COMMAND, "--resume")
    assert samples(tmp_path / "out") == whole


@pytest.mark.slow
def test_standard_output_is_full(sdcli: Sdcli, tmp_path: Path, whole: dict[str, bytes]) -> None:
    run = sdcli(*COMMAND, code=7, stdout="/dev/full")
    assert "cannot write to standard output" in run.stderr
    assert "kept" in run.stderr
    check_kept(run, tmp_path / "out", whole)
    one = sdcli("--prompt", "a red apple", "-o", "-", code=7, stdout="/dev/full")
    assert "cannot write to standard output" in one.stderr


@pytest.mark.slow
def test_a_folder_is_replaced_while_the_run_writes_to_it(
    sdcli: Sdcli, paused: Pause, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """`samples` becomes a file."""
    out = tmp_path / "out"
    run = paused()
    (out / "samples").rename(tmp_path / "moved")
    (out / "samples").touch()
    (tmp_path / "continue").touch()
    assert run.code == 7, run.stderr
    assert "cannot write to out/samples" in run.stderr
    (out / "samples").unlink()
    (tmp_path / "moved").rename(out / "samples")
    check_kept(run, out, whole)
    sdcli(*COMMAND, "--resume")
    assert samples(out) == whole
    assert len(check_outdir(out)) == IMAGES + 1


NEW_USER_NAMESPACE = """
import ctypes
assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0, ctypes.get_errno()
"""
"""Takes all rights from a process of the superuser (CLONE_NEWUSER), who could write anywhere."""


@pytest.mark.slow
def test_a_folder_becomes_read_only(sdcli: Sdcli, tmp_path: Path, whole: dict[str, bytes]) -> None:
    before = NEW_USER_NAMESPACE if os.geteuid() == 0 else ""
    if before and subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("run by the superuser, who may write anywhere, and user namespaces are not allowed here")
    out = tmp_path / "out"
    run = sdcli.start(*COMMAND, before=before + pause_at(2)).until((tmp_path / "paused").exists)
    (out / "samples").chmod(stat.S_IRUSR | stat.S_IXUSR)
    (tmp_path / "continue").touch()
    assert run.code == 7, run.stderr
    assert "Permission denied" in run.stderr
    assert "--outdir" in run.stderr
    check_kept(run, out, whole)
    again = sdcli(*COMMAND, "--resume", code=7, before=before)
    assert "loading" not in again.stderr, "this can be known before the model is loaded"
    (out / "samples").chmod(0o755)
    sdcli(*COMMAND, "--resume", before=before)
    assert samples(out) == whole


@pytest.mark.slow
def test_a_full_disk(
    sdcli: Sdcli, new_fork_server: Callable[..., ForkServer], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A file system of 200 kB, in a new mount namespace where the system allows one."""
    launcher = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*launcher, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    server = new_fork_server(tmp_path / "streams", launcher)
    mounted = type(sdcli)(server, tmp_path)
    try:
        (tmp_path / "out").mkdir()
        server.shell(f"mount -t tmpfs -o size=200k none {tmp_path}/out")
        run = mounted(*COMMAND, code=7)
        assert "No space left on device" in run.stderr
        assert "Free some space" in run.stderr
        server.shell(f"cp -a {tmp_path}/out {tmp_path}/full")
        check_kept(run, tmp_path / "full", whole)
        check_outdir(tmp_path / "full")

        server.shell(f"mount -o remount,size=10m {tmp_path}/out")
        mounted(*COMMAND, "--resume")
        server.shell(f"cp -a {tmp_path}/out {tmp_path}/done")
        assert samples(tmp_path / "done") == whole
        assert len(check_outdir(tmp_path / "done")) == IMAGES + 1
    finally:
        server.close()


@pytest.mark.slow
def test_a_journal_that_cannot_grow(sdcli: Sdcli, paused: Pause, tmp_path: Path, whole: dict[str, bytes]) -> None:
    """A limit on the size of files stops it in the middle of a line, as a full disk may."""
    out = tmp_path / "out"
    stopped = paused()
    stopped.send(signal.SIGTERM)
    assert stopped.code == 143, stopped.stderr
    with (out / "run-0000.jsonl").open("ab") as journal:
        # Longer than any image, so that the journal meets the limit first.
        journal.write(json.dumps({"kind": "padding", "of": "x" * 500_000}).encode() + b"\n")
        limit = journal.tell() + 300
    before = samples(out)
    run = sdcli(*COMMAND, "--resume", code=7, file_size=limit)
    assert os.strerror(errno.EFBIG) in run.stderr
    assert run.stdout == ""
    assert samples(out) == before, "an image was saved without its line"
    check_kept(run, out, whole)
    sdcli(*COMMAND, "--resume")
    assert samples(out) == whole
