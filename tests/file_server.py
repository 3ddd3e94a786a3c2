"""A server with one file that does what servers do wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save

CONTENT = save({
    "lora_unet_x.lora_down.weight": torch.arange(20_000.0).reshape(8, 2_500),
    "lora_unet_x.lora_up.weight": torch.arange(20_000.0).reshape(2_500, 8),
})  # fmt: skip
OTHER = save({"lora_unet_x.lora_down.weight": torch.ones(50_000)})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "style.safetensors"


class Server:
    """A server with one file.

    Attributes:
        content: of the file.
        tag: its ETag; empty for none.
        ranges: whether it obeys requests for a part.
        break_at: bytes of each response after which it breaks off, one for each request that has a body.
        length: of the file, as it says; by default the right one.
        status: codes of the next responses; after them 200.
        redirect: an address to which it sends every request.
        answers: what is done before each response.
    """

    def __init__(self) -> None:
        self.content, self.tag, self.ranges, self.length = CONTENT, '"one"', True, None
        self.break_at: list[int] = []
        self.status: list[int] = []
        self.redirect = ""
        self.headers: dict[str, str] = {}
        self.requests: list[Any] = []
        self.before: Callable[[int], None] = lambda number: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append(SimpleNamespace(path=self.path, headers=self.headers))
                server.before(len(server.requests))
                server.answer(self)

            def log_message(self, *_: object) -> None:
                """Do not write to standard error."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}/files/{NAME}"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        status = self.status.pop(0) if self.status else 302 if self.redirect else 200
        start = 0
        asked, condition = to.headers.get("Range"), to.headers.get("If-Range")
        if status == 200 and asked and self.ranges and condition in (None, self.tag):
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(self.content):
                status = 416
        to.send_response(status)
        body = self.content[start:] if status in (200, 206) else b""
        total = len(self.content) if self.length is None else self.length
        to.send_header("Content-Length", str(total - start if status in (200, 206) else 0))
        if status == 206:
            to.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if status == 302:
            to.send_header("Location", self.redirect)
        if self.tag:
            to.send_header("ETag", self.tag)
        for name, value in self.headers.items():
            to.send_header(name, value)
        to.end_headers()
        if len(self.requests) > 1 and self.break_at and body:  # the first one only looks
            body = body[: self.break_at.pop(0)]
        try:
            to.wfile.write(body)
            to.wfile.flush()
        except ConnectionError:
            pass
        to.close_connection = len(body) < total - start or len(self.requests) == 1

    def ranges_asked(self) -> list[str | None]:
        return [each.headers.get("Range") for each in self.requests[1:]]
