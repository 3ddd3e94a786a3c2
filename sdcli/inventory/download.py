"""One file over HTTP: broken-off downloads go on where they ended, and a file gets its name when it is complete.

While it is downloaded, the file is NAME.part, and NAME.part.json says from where and which version of the file it is:
a server that has another version now is asked for all of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sdcli.errors import ModelError, ModelNotFound, OutputError, UsageError
from sdcli.json_text import read_object
from sdcli.models import checkpoint_file
from sdcli.models.adapters import SUFFIXES
from sdcli.outputs.files import cannot_write, claim_name, make_folders, sync
from sdcli.terminal import in_bytes, one_line
from sdcli.version import VERSION

if TYPE_CHECKING:
    import httpx2

SAFE = ".safetensors"
MOST_FAILURES = 6
"""Requests in a row that may fail without bringing a byte."""
PAUSE = 1.0
"""Seconds before the second request; each further pause is twice as long."""
TIMEOUT = 30.0
"""Seconds in which a server must respond, and go on."""
ROOM = 50_000_000
"""Bytes that a disk keeps free."""
LONGEST_NAME = 200
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""Codes of responses after which a request is repeated."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and with all, if that is known."""
Note = Callable[[str], None]


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: its address.
        name: the name that it gets here; empty until the server has said it.
        size: its bytes; None if the server does not say.
        sha256: its hash, if that is known; empty otherwise.
        version: what the server calls this version of the file: an ETag or a date; empty if it does not say.
        headers: of requests; that with a token is never sent to another host.
    """

    url: str
    name: str = ""
    size: int | None = None
    sha256: str = ""
    version: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def shown(self) -> str:
        """The address without what may be secret: a password, and a token behind the question mark."""
        return shown(self.url)


def shown(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    return one_line(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def look(remote: Remote) -> Remote:
    """The file with what the server says of it: size, version and, if it has no name yet, its name.

    Raises:
        ModelNotFound: there is no such file, or the server cannot be reached.
        ModelError: the server refuses.
    """
    import httpx2

    try:
        with _client() as client, _response(client, remote, {}) as response:
            _require_success(response, remote)
            size = _total(response)
            return replace(
                remote, name=remote.name or _name(response), size=remote.size if size is None else size,
                version=_version(response),
            )  # fmt: skip
    except httpx2.TransportError as error:
        raise ModelNotFound(
            f"{remote.shown} cannot be reached",
            why=f"{error or type(error).__name__}.",
            fix="Check the address and the network.",
        ) from error
    except _Again as error:
        raise ModelError(f"{remote.shown} cannot be downloaded", why=f"{error}.", fix="Try again later.") from error


def require_name(name: str, *, allow_pickle: bool) -> None:
    """Check the name that a file would get.

    Raises:
        UsageError: it is not one of weights, or of a pickle, which was not asked for.
    """
    if not name or name[0] == "." or not name.isprintable() or len(os.fsencode(name)) > LONGEST_NAME or "/" in name:
        raise UsageError(f"the server names no file, or {name!r}", fix="Pass a name with --name.")
    if not name.lower().endswith(SUFFIXES):
        raise UsageError(
            f"{name} does not look like a file of weights", fix=f"Pass a name that ends in {SAFE} with --name."
        )
    if not name.lower().endswith(SAFE) and not allow_pickle:
        raise UsageError(
            f"{name} is a pickle, in which other programs may run code",
            why=f"sdcli runs none, but downloads only {SAFE} unless asked.",
            fix="Pass --allow-pickle, or the address of a safetensors file.",
        )


def fetch(remote: Remote, folder: Path, progress: Progress, note: Note) -> Path:
    """Download a file that `look` has seen.

    Args:
        remote: the file.
        folder: where it gets its name; created if it is missing.
        progress: called while bytes arrive.
        note: called with what the user should know.

    Returns:
        Its path.

    Raises:
        ModelNotFound: it is no longer there, or the server cannot be reached.
        ModelError: it is not the file that it should be, or no weights.
        OutputError: a file has its name, the disk is full, or another process downloads it.
    """
    target = folder / remote.name
    if os.path.lexists(target):
        raise OutputError(f"{target} already exists", fix="Move it, or pass another name with --name.")
    part = _Part(folder / f"{remote.name}.part", remote)
    try:
        make_folders(folder)
        with part.opened():
            _receive(remote, part, progress, note)
            part.check()
            claim_name(part.path, target)
            part.remove()
        sync(folder)
    except FileExistsError as error:
        raise OutputError(f"{target} exists now: another program made it", fix="Pass another --name.") from error
    except OSError as error:
        raise cannot_write(folder, error, "--into") from error
    return target


class _Part:
    """The file under the name that it has while it is incomplete."""

    def __init__(self, path: Path, remote: Remote) -> None:
        self.path = path
        self.notes = path.with_name(f"{path.name}.json")
        self.remote = remote
        self.version = ""
        """The version of the file that the bytes are from."""
        self._file: io.BufferedRandom | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the file for this process alone.

        Raises:
            OutputError: another process has it, or it is no download of sdcli.
        """
        known = {}
        if os.path.lexists(self.path):
            with suppress(OSError):
                known = read_object(self.notes.read_bytes()) or {}
            if known.get("url") != shown(self.remote.url):
                raise OutputError(
                    f"{self.path} already exists, and is not a download of {self.remote.shown}",
                    fix="Move it, or pass another name with --name.",
                )
        self.version = str(known.get("version", ""))
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another process downloads {self.path}", fix="Wait until it has ended.") from error
            except OSError:
                pass  # a file system without locks
            self._file = file
            self._note()
            yield

    @property
    def file(self) -> io.BufferedRandom:
        assert self._file is not None
        return self._file

    @property
    def size(self) -> int:
        self.file.flush()
        return os.fstat(self.file.fileno()).st_size

    def start(self, version: str) -> None:
        """Forget the bytes: those of another version follow."""
        self.file.seek(0)
        self.file.truncate()
        self.version = version
        self._note()

    def _note(self) -> None:
        self.notes.write_text(json.dumps({"url": shown(self.remote.url), "version": self.version}))

    def check(self) -> None:
        """Check that the file is the one that it should be, and write it to the disk.

        Raises:
            ModelError: it is another one, or not a file of weights. It is removed.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        if self.remote.sha256:
            self.file.seek(0)
            found = hashlib.file_digest(self.file, "sha256").hexdigest()
            if found != self.remote.sha256:
                self.remove()
                raise ModelError(
                    f"{self.remote.shown} is another file than it should be; it is deleted",
                    why=f"Its SHA-256 is {found}, and it should be {self.remote.sha256}.",
                    fix="Compare the hash with that of the source, and try again.",
                )
        try:
            if not checkpoint_file.stored(self.path):
                raise ModelError(f"{self.path} contains no tensors")
        except ModelError as error:
            self.remove()
            raise ModelError(
                f"{self.remote.shown} is no file of weights; it is deleted", why=error.why or f"{error.what}."
            ) from error

    def remove(self) -> None:
        for path in (self.path, self.notes):
            path.unlink(missing_ok=True)


def _receive(remote: Remote, part: _Part, progress: Progress, note: Note) -> None:
    """Ask for what is missing until nothing is."""
    import httpx2

    failures, most = 0, part.size
    if most:
        note(f"going on at {in_bytes(most)}")
    with _client() as client:
        while True:
            reason = "The server sends too little."
            try:
                if _request(client, remote, part, progress, note):
                    return
            except (httpx2.TransportError, _Again) as error:
                reason = f"{str(error).partition(' (')[0] or type(error).__name__}."
            failures = 0 if part.size > most else failures + 1
            most = max(most, part.size)
            if failures >= MOST_FAILURES:
                raise ModelError(
                    f"the download of {remote.shown} broke off {MOST_FAILURES} times",
                    why=reason,
                    fix=f"{in_bytes(part.size)} are kept: the same command goes on with them.",
                )
            time.sleep(PAUSE * 2 ** max(failures - 1, 0))
            note(f"the download broke off at {in_bytes(part.size)}, and goes on: {reason.rstrip('.')}")


class _Again(Exception):
    """A response after which the request is repeated."""


def _request(client: httpx2.Client, remote: Remote, part: _Part, progress: Progress, note: Note) -> bool:
    """Ask for what is missing; returns whether the file is complete."""
    have = part.size
    if have and not part.version:
        have = 0  # the server cannot say whether these bytes are from the file that it has now
    # Weak ETags are for files that are alike, not the same.
    headers = {"Range": f"bytes={have}-", "If-Range": part.version} if have else {}
    with _response(client, remote, headers) as response:
        if response.status_code == 416 and remote.size == have:
            return True
        if response.status_code in (412, 416):
            part.start("")
            return False
        _require_success(response, remote)
        total = _total(response)
        version = _version(response)
        if response.status_code == 206 and _start(response) == have and version in ("", part.version):
            part.file.seek(have)
        elif response.status_code == 206:  # of another version, or other bytes than those that are missing
            note("the file changed on the server")
            part.start("")
            return False
        else:
            if have:
                changed = version != part.version
                note("the file changed on the server" if changed else "the server sends the file from its beginning")
            part.start(version)
            have = 0
        _require_room(part.path, (total or 0) - have)
        for chunk in response.iter_raw():
            part.file.write(chunk)
            have += len(chunk)
            progress(have, total)
    if total is not None and have > total:
        part.start("")
        raise _Again(f"the server sent {have:,} bytes of {total:,}")
    return total is None or have == total


def _require_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free - ROOM:
        raise OutputError(
            f"there is no room for {path.name.removesuffix('.part')} in {path.parent}",
            why=f"It needs {in_bytes(needed)}, and {in_bytes(free)} are free.",
            fix="Free some space, or pass another folder with --into.",
        )


def _client() -> httpx2.Client:
    import httpx2

    # Redirects to another host lose the header with the token.
    return httpx2.Client(
        follow_redirects=True,
        timeout=TIMEOUT,
        headers={"User-Agent": f"sdcli/{VERSION}", "Accept-Encoding": "identity"},
    )


@contextmanager
def _response(client: httpx2.Client, remote: Remote, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    import httpx2

    try:
        with client.stream("GET", remote.url, headers={**remote.headers, **headers}) as response:
            if remote.url.startswith("https:") and response.url.scheme != "https":
                raise ModelError(f"{remote.shown} leads to an address without encryption: {shown(str(response.url))}")
            yield response
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        raise ModelNotFound(f"{remote.shown} cannot be downloaded", why=f"{error}.") from error


def _require_success(response: httpx2.Response, remote: Remote) -> None:
    code = response.status_code
    if code in TRY_AGAIN:
        raise _Again(f"the server answers {code} {response.reason_phrase}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ModelError(f"{remote.shown} cannot be downloaded", why="The server sends it compressed.")
    if code in (200, 206):
        return
    fix = {
        401: "It needs permission: log in on the site, and pass the address that it gives for downloads.",
        403: "It needs permission: log in on the site, and pass the address that it gives for downloads.",
        404: "Check the address.",
        410: "Check the address.",
    }
    kind = ModelNotFound if code in (404, 410) else ModelError
    raise kind(
        f"{remote.shown} cannot be downloaded",
        why=f"The server answers {code} {one_line(response.reason_phrase)}.",
        fix=fix.get(code, "Try again later."),
    )


def _version(response: httpx2.Response) -> str:
    tag = str(response.headers.get("etag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("last-modified", ""))


_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def _start(response: httpx2.Response) -> int | None:
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    return int(found[1]) if found else None


def _total(response: httpx2.Response) -> int | None:
    """The bytes of the whole file, if the server says them."""
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        return int(found[2]) if found and found[2] != "*" else None
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _name(response: httpx2.Response) -> str:
    """The name of a file, by its header or the end of its address."""
    header: Any = Message()
    header["content-disposition"] = response.headers.get("content-disposition", "")
    given = header.get_filename() or unquote(urlsplit(str(response.url)).path)
    return str(given).replace("\\", "/").rpartition("/")[2]
