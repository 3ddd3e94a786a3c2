"""`sdcli txt2img --gallery`, and its page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.gallery import Gallery
from sdcli.records import ImageRecord, Key
from sdcli.settings import Settings
from tests.jobs import job

if TYPE_CHECKING:
    from tests.cli.conftest import Run
    from tests.conftest import SmallCheckpoint

PROMPTS = ["a red apple", "<script>document.title = 'broken'</script> & \"quotes\"", "תפוח אדום 🍎", "", "a Café"]


class Browser:
    """Headless Chromium, controlled by the DevTools protocol over two pipes, which needs no library."""

    def __init__(self, binary: str, profile: Path) -> None:
        # Chromium reads from 3 and writes to 4.
        launch = (
            "import fcntl, os, sys\n"
            "r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])\n"
            "os.dup2(r, 3), os.dup2(w, 4)\n"
            "os.execv(sys.argv[3], sys.argv[3:])\n"
        )
        theirs, ours = os.pipe()
        self.answers, answers = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, str(theirs), str(answers), binary, "--headless", "--no-sandbox",
             "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self.orders = ours
        self.number = 0
        self.rest = b""
        self.session: str | None = None
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.orders)
        os.close(self.answers)

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        order = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            order["sessionId"] = self.session
        os.write(self.orders, json.dumps(order).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            read = os.read(self.answers, 1 << 20)
            assert read, "the browser ended"
            self.rest += read
        first, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Network.requestWillBeSent"):
            self.events.append(message)
        return message

    def open(self, page: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.do("Page.navigate", url=page.as_uri())
        while self.message().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The result of a script. It does not belong to the page, so the policy of the page does not stop it."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        self.do("Input.insertText", text=text)

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def show(self, width: int, height: int, scheme: str) -> None:
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def image(self) -> bytes:
        return base64.b64decode(self.do("Page.captureScreenshot")["data"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = (os.environ.get("SDCLI_TEST_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    binary = next((found for name in names if name and (found := shutil.which(name))), None)
    if binary is None:
        pytest.skip("no Chromium on the PATH, and none named by SDCLI_TEST_BROWSER")
    browser = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A complete page of several images."""
    folder = OutputFolder(tmp_path)
    shown = Gallery(folder.new_gallery(), Settings.of(), "builtin")
    for index, prompt in enumerate(PROMPTS):
        pixels = np.full((64, 64, 3), 40 * index, dtype=np.uint8)
        saved = folder.save_sample(png(pixels), Key(f"{index:064}"))
        shown.add(pixels, job(index=index, prompt=prompt, width=64), ImageRecord(safety=None), saved)
    shown.finish()
    return shown.path


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


SHOWN = (
    "[...document.querySelectorAll('li')].filter((card) => card.checkVisibility())"
    ".map((card) => card.querySelector('.prompt')?.textContent)"
)
COUNTED = "document.querySelector('output').value"


def focus(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).focus()")


def test_it_opens_without_errors_and_requests_nothing_else(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run(SHOWN) == PROMPTS
    assert browser.run("document.title") == "gallery-0000 · builtin"
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth === 64)")
    assert browser.run(COUNTED) == "5 images"
    assert not browser.run("document.querySelector('.unfinished').checkVisibility()")
    requested = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert {one["request"]["url"].partition(":")[0] for one in requested} == {"file", "data"}
    assert [event for event in browser.events if event["method"] != "Network.requestWillBeSent"] == []


@pytest.mark.parametrize(
    ("words", "found"),
    [("APPLE", [0]), ("apple red", [0]), ("script", [1]), ("אדום", [2]), ("CAFÉ", [4]), ("00003", [3]), ("whale", [])],
)
def test_the_filter_applies_while_the_user_types(browser: Browser, page: Path, words: str, found: list[int]) -> None:
    browser.open(page)
    focus(browser, "#filter")
    browser.type(words)
    assert browser.run(SHOWN) == [PROMPTS[index] for index in found]
    assert browser.run(COUNTED) == f"{len(found)} of 5"
    assert browser.run("document.querySelector('.nothing').checkVisibility()") is (not found)


@pytest.mark.parametrize("clipboard", [True, False])
def test_the_button_copies_the_command(browser: Browser, page: Path, clipboard: bool) -> None:
    """With the keyboard alone, and also if the browser gives a local file no clipboard."""
    browser.do("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.open(page)
    if not clipboard:
        browser.run("navigator.clipboard.writeText = () => Promise.reject(new Error('no')); 0")
    browser.run("document.querySelectorAll('a')[2].focus()")
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Copy command"
    browser.press("Enter")
    label = "new Promise((done) => setTimeout(() => done(document.activeElement.textContent), 300))"
    assert browser.run(label) == "Copied"
    copied = browser.run("navigator.clipboard.readText()")
    assert copied.splitlines()[0].startswith("sdcli txt2img --prompt ")
    words = shlex.split(copied, comments=True)
    assert words[words.index("--prompt") + 1] == PROMPTS[2]


def test_a_click_opens_the_image(browser: Browser, page: Path) -> None:
    browser.open(page)
    focus(browser, "li:nth-child(2) a")
    browser.press("Enter")
    while browser.message().get("method") != "Page.loadEventFired":
        pass
    assert browser.run("location.href") == (page.parent / "samples/00001.png").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits_any_window_in_light_and_dark(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.show(width, 800, scheme)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert browser.run("document.documentElement.scrollWidth") == width
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    bright = sum(int(part) for part in ground.strip("rgb()").split(",")) / 3
    assert bright > 200 if scheme == "light" else bright < 60


def test_a_page_that_is_cut_off_shows_its_images(browser: Browser, page: Path) -> None:
    whole = page.read_bytes()
    for length in (whole.index(b"</footer>") - 20, whole.rindex(b"<li>") + 700, whole.rindex(b"<li>") + 40):
        page.write_bytes(whole[:length])
        browser.open(page)
        assert browser.run(SHOWN)[:4] == PROMPTS[:4]
        assert browser.run("document.querySelector('#filter').checkVisibility()")


@pytest.mark.slow
def test_the_page_of_a_run(run: Run, small_checkpoint: SmallCheckpoint, tmp_path: Path) -> None:
    ended = run(
        "txt2img", "--ckpt", small_checkpoint.ckpt, "--config", small_checkpoint.config, "--steps", "2", "--H", "128",
        "--W", "128", "--n_samples", "2", "--n_iter", "1", "--precision", "full", "--prompt", "a <cat>", "--gallery",
        "--outdir", "out",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["out/samples/00000.png", "out/samples/00001.png", "out/grid-0000.png"]
    assert "the gallery is out/gallery-0000.html" in ended.stderr
    text = (tmp_path / "out/gallery-0000.html").read_text("utf-8")
    assert text.count("a &lt;cat&gt;</p>") == 2
    assert text.count("safe by opennsfw") == 2
    assert "# image 2 " in text
    assert text.endswith("</html>\n")
