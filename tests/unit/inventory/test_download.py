"""Downloads from a server on this machine that does what servers do wrong."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdcli.errors import ModelError, ModelNotFound, OutputError, UsageError
from sdcli.inventory import download
from sdcli.inventory.download import Remote
from tests.file_server import CONTENT, NAME, OTHER, SHA256, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0)
    here = Server()
    yield here
    here.server.shutdown()
    here.server.server_close()


def fetch(server: Server, folder: Path, **remote: Any) -> tuple[Path, list[str]]:
    notes: list[str] = []
    found = download.look(Remote(server.url, remote.pop("name", ""), **remote))
    return download.fetch(found, folder, lambda done, total: None, notes.append), notes


def only(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    remote = download.look(Remote(server.url + "?token=secret", sha256=SHA256))
    assert (remote.name, remote.size, remote.version) == (NAME, len(CONTENT), '"one"')
    assert remote.shown == server.url
    path = download.fetch(remote, tmp_path / "new/models", lambda *step: steps.append(step), lambda note: None)
    assert path == tmp_path / "new/models" / NAME
    assert path.read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    only(path.parent, NAME)
    assert server.ranges_asked() == [None]


def test_three_times_broken_off_and_resumed(server: Server, tmp_path: Path) -> None:
    server.break_at = [50_000, 30_000, 20_000]
    path, notes = fetch(server, tmp_path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked() == [None, "bytes=50000-", "bytes=80000-", "bytes=100000-"]
    assert {each.headers.get("If-Range") for each in server.requests[2:]} == {'"one"'}
    assert len(notes) == 3
    assert "broke off at 80 KB, and goes on" in notes[1]
    only(tmp_path, NAME)


def test_a_later_command_goes_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MOST_FAILURES", 1)
    server.break_at = [50_000, 0]
    with pytest.raises(ModelError, match="broke off 1 times") as raised:
        fetch(server, tmp_path)
    assert "50 KB are kept" in raised.value.fix
    only(tmp_path, f"{NAME}.part", f"{NAME}.part.json")
    server.requests.clear()
    path, notes = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked() == ["bytes=50000-"]
    assert notes == ["going on at 50 KB"]
    only(tmp_path, NAME)


def test_a_part_that_is_complete(server: Server, tmp_path: Path) -> None:
    """Killed before the file got its name."""
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    (tmp_path / f"{NAME}.part.json").write_text(json.dumps({"url": server.url, "version": '"one"'}))
    path, _ = fetch(server, tmp_path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['"one"', ""])
def test_a_server_that_sends_everything_again(server: Server, tmp_path: Path, tag: str) -> None:
    server.ranges, server.tag, server.break_at = False, tag, [50_000, 70_000]
    path, notes = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked() == ([None, "bytes=50000-", "bytes=70000-"] if tag else [None, None, None])
    assert any("sends the file from its beginning" in note for note in notes) == bool(tag)


@pytest.mark.parametrize("ignores_the_condition", [False, True])
def test_a_file_that_changes_meanwhile(server: Server, tmp_path: Path, ignores_the_condition: bool) -> None:
    def change(number: int) -> None:
        if number == 3:
            server.content, server.tag = OTHER, '"two"'
            if ignores_the_condition:
                server.requests[-1].headers.replace_header("If-Range", '"two"')

    server.break_at, server.before = [50_000], change
    path, notes = fetch(server, tmp_path)
    assert path.read_bytes() == OTHER
    assert any("the file changed on the server" in note for note in notes)


def test_a_wrong_hash(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is another file than it should be; it is deleted") as raised:
        fetch(server, tmp_path, sha256="0" * 64)
    assert SHA256 in raised.value.why
    only(tmp_path)


@pytest.mark.parametrize(("code", "kind"), [(404, ModelNotFound), (410, ModelNotFound), (403, ModelError)])
def test_a_file_that_is_not_there(server: Server, tmp_path: Path, code: int, kind: type[ModelError]) -> None:
    server.status = [code]
    with pytest.raises(kind, match=f"{server.url} cannot be downloaded") as raised:
        fetch(server, tmp_path)
    assert f"The server answers {code}" in raised.value.why
    only(tmp_path)


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.before = lambda number: server.status.extend({2: [503], 3: [429]}.get(number, []))
    assert fetch(server, tmp_path)[0].read_bytes() == CONTENT
    assert len(server.requests) == 4


@pytest.mark.parametrize("ranges", [False, True])
def test_a_body_that_is_too_short(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.length, server.ranges = len(CONTENT) + 1_000, ranges
    with pytest.raises(ModelError, match="broke off 6 times"):
        fetch(server, tmp_path)
    assert len(server.requests) < 15
    assert not (tmp_path / NAME).exists()


def test_what_is_no_file_of_weights_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(ModelError, match="is no file of weights; it is deleted") as raised:
        fetch(server, tmp_path)
    assert "It is a web page" in raised.value.why
    server.content = CONTENT[:-100]
    with pytest.raises(ModelError, match="is no file of weights") as raised:
        fetch(server, tmp_path)
    assert f"It contains {len(CONTENT) - 100:,} bytes of {len(CONTENT):,}" in raised.value.why
    only(tmp_path)


def test_nothing_is_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(OutputError, match="already exists"):
        fetch(server, tmp_path)
    (tmp_path / "other.safetensors.part").write_bytes(b"of a browser")
    with pytest.raises(OutputError, match="is not a download of"):
        fetch(server, tmp_path, name="other.safetensors")

    def appears(number: int) -> None:
        if number == 2:
            (tmp_path / "third.safetensors").write_bytes(b"of another program")

    server.requests.clear()
    server.before = appears
    with pytest.raises(OutputError, match="exists now"):
        fetch(server, tmp_path, name="third.safetensors")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept[NAME] == b"mine"
    assert kept["other.safetensors.part"] == b"of a browser"
    assert kept["third.safetensors"] == b"of another program"


def test_one_process_at_a_time(server: Server, tmp_path: Path) -> None:
    part = tmp_path / f"{NAME}.part"
    part.touch()
    (tmp_path / f"{NAME}.part.json").write_text(json.dumps({"url": server.url}))
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process downloads"):
            fetch(server, tmp_path)
    assert fetch(server, tmp_path)[0].read_bytes() == CONTENT


def test_a_disk_without_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=download.ROOM + 100_000))
    with pytest.raises(OutputError, match="there is no room") as raised:
        fetch(server, tmp_path)
    assert raised.value.exit_code == 7
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=download.ROOM + 200_000))
    assert fetch(server, tmp_path)[0].read_bytes() == CONTENT


def test_a_token_is_not_sent_to_another_host(server: Server, tmp_path: Path) -> None:
    other = Server()
    try:
        server.redirect = other.url.replace("127.0.0.1", "localhost")
        fetch(server, tmp_path, headers={"Authorization": "Bearer secret"})
        assert {each.headers.get("Authorization") for each in server.requests} == {"Bearer secret"}
        assert {each.headers.get("Authorization") for each in other.requests} == {None}
    finally:
        other.server.shutdown()
        other.server.server_close()


def test_names(server: Server, tmp_path: Path) -> None:
    server.headers = {"Content-Disposition": "attachment; filename*=UTF-8''..%2Ff%C3%AAte.safetensors"}
    assert download.look(Remote(server.url)).name == "fête.safetensors"
    for name in ("x.safetensors", "X.SafeTensors"):
        download.require_name(name, allow_pickle=False)
    for name in ("", ".hidden.safetensors", "a/b.safetensors", "a\x1b.safetensors", "x" * 300, "x.exe", "noname"):
        with pytest.raises(UsageError):
            download.require_name(name, allow_pickle=True)
    with pytest.raises(UsageError, match="is a pickle"):
        download.require_name("model.ckpt", allow_pickle=False)
    download.require_name("model.ckpt", allow_pickle=True)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"http://127\.0\.0\.1:9/x\.safetensors cannot be reached"):
        download.look(Remote("http://user:password@127.0.0.1:9/x.safetensors?key=1"))
