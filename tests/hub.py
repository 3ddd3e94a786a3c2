"""A small server in place of the Hugging Face hub, which counts requests."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"
ID = "people/small"


class Hub:
    """The part of the hub's interface that huggingface_hub uses, with the files of one folder."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.requested: list[str] = []
        self.connections = 0
        self.tokens: set[str | None] = set()
        self.sha256 = ""
        """A wrong hash for all large files."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                hub.connections += 1
                super().setup()

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                hub.requested.append(path)
                hub.tokens.add(self.headers.get("authorization"))
                hub.answer(self, path)

            def log_message(self, *_: object) -> None:
                """Do not write to standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler, path: str) -> None:
        commit = OTHER if "/revision/early" in path or f"/{OTHER}" in path else COMMIT
        if path == "/":
            return self.reply(to, b"")
        if not path.startswith((f"/api/models/{ID}", f"/{ID}/resolve/")):
            error = "GatedRepo" if "gated" in path else "RepoNotFound"
            return self.reply(to, b"{}", status=403 if error == "GatedRepo" else 404, error=error)
        if "/revision/" in path and not path.endswith(("/main", "/early", COMMIT, OTHER)):
            return self.reply(to, b"{}", status=404, error="RevisionNotFound")
        if "/tree/" in path:
            return self.reply(to, json.dumps([self.entry(file) for file in self.all_files()]).encode())
        if path.startswith("/api/"):
            siblings = [{"rfilename": name, **self.large(name)} for name in self.all_files()]
            card = {"license": "openrail"}
            found = {"id": ID, "sha": commit, "siblings": siblings, "cardData": card}
            return self.reply(to, json.dumps(found).encode())
        revision, _, name = path.removeprefix(f"/{ID}/resolve/").partition("/")
        if revision not in ("main", "early", COMMIT, OTHER):
            return self.reply(to, b"", status=404, error="RevisionNotFound")
        file = self.files / name
        if not file.is_file():
            return self.reply(to, b"", status=404, error="EntryNotFound")
        return self.reply(to, file.read_bytes(), commit=commit, linked=self.large(name).get("lfs"))

    def all_files(self) -> list[str]:
        return sorted(file.relative_to(self.files).as_posix() for file in self.files.rglob("*") if file.is_file())

    def large(self, name: str) -> dict[str, Any]:
        """What the hub says of a file that Git does not hold: its size and SHA-256."""
        content = (self.files / name).read_bytes()
        if not name.endswith(".safetensors"):
            return {"size": len(content)}
        lfs = {"sha256": self.sha256 or hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {"size": len(content), "lfs": lfs}

    def entry(self, name: str) -> dict[str, Any]:
        content = (self.files / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def reply(
        self,
        to: BaseHTTPRequestHandler,
        body: bytes,
        *,
        status: int = 200,
        error: str = "",
        commit: str = COMMIT,
        linked: dict[str, Any] | None = None,
    ) -> None:
        to.send_response(status)
        to.send_header("Content-Length", str(len(body)))
        to.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        to.send_header("X-Repo-Commit", commit)
        if linked:
            to.send_header("X-Linked-ETag", f'"{linked["sha256"]}"')
            to.send_header("X-Linked-Size", str(linked["size"]))
        if error:
            to.send_header("X-Error-Code", error)
        to.end_headers()
        if to.command == "GET":
            to.wfile.write(body)

    def downloaded(self) -> set[str]:
        """The files that were requested."""
        return {path.split("/", 5)[5] for path in self.requested if "/resolve/" in path}


def use(monkeypatch: pytest.MonkeyPatch, url: str, *, offline: bool = False) -> None:
    """As HF_ENDPOINT and HF_HUB_OFFLINE do, which are read when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    huggingface_hub.close_session()
