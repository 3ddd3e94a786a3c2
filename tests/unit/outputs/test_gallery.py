"""The gallery: valid HTML, escaped text, a strict policy, and written image by image."""

import base64
import errno
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcli.errors import OutputError
from sdcli.outputs import gallery
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.gallery import Gallery
from sdcli.records import ImageRecord, Key, SafetyRecord
from sdcli.settings import Settings
from tests.jobs import job

HOSTILE = [
    "<script>alert(1)</script>", "</ul></main><img src=x onerror=alert(1)>", "\"quotes\" 'and' &amp; &", "🍎 שלום",
    "a\x00b\x1bc\x85", "two\nlines", "", "<!--", "{prompt} %s", "</style>",
]  # fmt: skip
VOID = {"meta", "img", "input"}
SAFE = SafetyRecord(checker="opennsfw", flagged=False, scores={"nsfw": 0.01}, source="", done=None)
CHECKED, UNCHECKED = ImageRecord(safety=SAFE), ImageRecord(safety=None)
KEY = Key("0" * 64)


def image(height: int = 64, width: int = 128) -> np.ndarray:
    return np.full((height, width, 3), 200, dtype=np.uint8)


def new_gallery(folder: Path, model: str = "builtin") -> Gallery:
    return Gallery(OutputFolder(folder).new_gallery(), Settings.of(), model)


class Page(HTMLParser):
    """Reads a page; an error if tags do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.name = "outside"
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert len(values) == len(attrs), "attributes are unique"
        self.tags.append((tag, values))
        self.name = str(values.get("class", tag))
        self.texts.setdefault(self.name, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.name = "outside"

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.name, [""])[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.tags if name == tag]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """A gallery with all kinds of prompts."""
    folder = OutputFolder(tmp_path)
    shown = Gallery(folder.new_gallery(), Settings.of(), "<my> & model.ckpt")
    for index, prompt in enumerate(HOSTILE):
        shown.add(
            image(600, 300),
            job(index=index, prompt=prompt, negative_prompt=prompt),
            CHECKED,
            folder.save_sample(b"", KEY),
        )
    shown.finish()
    return Page(shown.path)


def test_tags_nest_and_the_page_is_complete(page: Page) -> None:
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.texts["footer"][0].strip() == ""
    assert page.texts["span"] == ["<my> & model.ckpt"]


def test_any_prompt_is_shown_as_written(page: Page) -> None:
    cleaned = [prompt.replace("\x00", "�").replace("\x1b", "�").replace("\x85", "�") for prompt in HOSTILE]
    assert page.texts["prompt"] == cleaned
    assert page.texts["negative"] == [prompt for prompt in cleaned if prompt]


def test_each_image_has_its_settings(tmp_path: Path) -> None:
    shown = new_gallery(tmp_path)
    plain = job(index=0, precision="autocast")
    first = plain.model_copy(update={"scale": 3.0, "seed": 2**64 - 1})
    shown.add(image(), first, CHECKED, tmp_path / "samples/00007.png")
    shown.add(image(), plain, UNCHECKED, None)
    for done in ("replace", "blur", "keep"):
        flagged = {"flagged": True, "scores": {"nsfw": 0.94}, "threshold": 0.5, "done": done}
        unsafe = ImageRecord(safety=SAFE.model_copy(update=flagged))
        shown.add(image(), plain, unsafe, None)
    shown.finish()
    page = Page(shown.path)
    assert page.texts["dt"][:7] == ["image", "seed", "sampler", "steps", "scale", "size", "safety"]
    assert page.texts["dd"][:7] == [
        "00007.png", "18446744073709551615", "PLMS", "20", "3", "128 x 64", "safe by opennsfw",
    ]  # fmt: skip
    assert page.texts["dd"][7] == "2", "an image without a file has its number"
    assert page.texts["dd"][13::7] == [
        "not checked",
        *(f"unsafe by opennsfw 0.94, limit 0.50, {done}" for done in ("replaced", "blurred", "kept")),
    ]  # fmt: skip
    assert page.texts["pre"][0].startswith("sdcli txt2img --prompt 'a cat' --H 64 --W 128 ")


def test_other_settings_are_shown_if_they_are_not_at_their_defaults(tmp_path: Path) -> None:
    shown = new_gallery(tmp_path)
    shown.add(image(), job(precision="full", rng="cpu", eta=0.5), UNCHECKED, None)
    page = Page(shown.path)
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert (facts["rng"], facts["eta"], facts["precision"]) == ("cpu", "0.5", "full")


def test_the_command_is_quoted_for_the_shell(page: Page) -> None:
    for prompt, command in zip(HOSTILE, page.texts["pre"], strict=True):
        if prompt.isprintable():
            words = shlex.split(command)
            assert words[words.index("--prompt") + 1] == prompt


def test_thumbnails_are_small_and_link_to_the_files(page: Page, tmp_path: Path) -> None:
    links = [str(values["href"]) for values in page.all("a")]
    assert links == [f"samples/{number:05}.png" for number in range(len(HOSTILE))]
    assert all((tmp_path / link).is_file() for link in links)
    for values in page.all("img"):
        kind, _, data = str(values["src"]).partition(",")
        assert kind == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.size == (160, 320) == (int(str(values["width"])), int(str(values["height"])))


def test_a_small_image_is_not_enlarged(tmp_path: Path) -> None:
    shown = new_gallery(tmp_path)
    shown.add(image(64, 128), job(index=0), UNCHECKED, None)
    (shown_image,) = Page(shown.path).all("img")
    assert (shown_image["width"], shown_image["height"]) == ("128", "64")


def test_an_image_without_a_file_has_no_link(tmp_path: Path) -> None:
    shown = new_gallery(tmp_path)
    shown.add(image(), job(index=0), UNCHECKED, None)
    assert Page(shown.path).all("a") == []


def test_the_policy_allows_only_the_page_s_own_style_and_script(page: Page) -> None:
    """Nothing is loaded from elsewhere."""
    (policy,) = [values["content"] for values in page.all("meta") if "Policy" in str(values.get("http-equiv"))]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    for tag in ("style", "script"):
        (text,) = page.texts[tag]
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    sources = [str(values[name]) for _, values in page.tags for name in ("src", "href") if name in values]
    assert all(source.startswith(("data:", "samples/")) for source in sources)
    assert not [name for _, values in page.tags for name in values if name.startswith("on") or name == "style"]
    assert "http" not in page.texts["style"][0] + page.texts["script"][0]
    assert "url(" not in page.texts["style"][0]


def test_the_page_is_written_image_by_image(tmp_path: Path) -> None:
    """A run that is killed leaves a page without its end, with all finished images."""
    shown = new_gallery(tmp_path)
    for index in range(3):
        shown.add(image(), job(index=index), UNCHECKED, None)
        page = Page(shown.path)
        assert page.texts["prompt"] == ["a cat"] * (index + 1)
        assert page.open == ["html", "body", "main", "ul"], "every entry is complete"
        assert not page.all("footer")


def test_names_are_free_and_do_not_count_as_pages_of_the_grid(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    assert [folder.new_gallery().name for _ in range(2)] == ["gallery-0000.html", "gallery-0001.html"]
    (tmp_path / "gallery-0000.html").unlink()
    (tmp_path / "gallery-0001.html").write_text("kept")
    assert folder.new_gallery().name == "gallery-0002.html"
    assert (tmp_path / "gallery-0001.html").read_text() == "kept"
    assert OutputFolder(tmp_path).save_grid(b"", KEY).name == "grid-0000.png"
    (tmp_path / "gallery-of-mine.html").touch()
    assert OutputFolder(tmp_path).save_grid(b"", KEY).name == "grid-0002.png", "another file counts"


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = new_gallery(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="cannot write"):
        shown.finish()


def test_images_are_not_kept_in_memory(tmp_path: Path) -> None:
    shown = new_gallery(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    shown.add(pixels, job(index=0), UNCHECKED, None)  # what is loaded once is not measured
    tracemalloc.start()
    try:
        for index in range(200):
            shown.add(pixels, job(index=index), CHECKED, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    shown.finish()
    assert 2 * peak < 1e6 < shown.path.stat().st_size
    assert "<p>201 images</p>" in shown.path.read_text("utf-8")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node on the PATH")
def test_the_filter() -> None:
    script = Path(gallery.__file__).with_name("gallery.js").read_text("utf-8")
    cases: dict[str, Any] = {
        "": [True, True, True],
        "  ": [True, True, True],
        "red": [True, False, True],
        "RED cat": [False, False, True],
        "cat red": [False, False, True],
        "CAFÉ": [False, True, False],
        "cafe\N{COMBINING ACUTE ACCENT}": [False, True, False],
        ".*": [False, False, False],
    }
    code = f"""
        const document = {{ documentElement: {{ classList: {{ add() {{}} }} }}, addEventListener() {{}} }};
        {script}
        const texts = ["a Red apple", "a café", "a cat, red"].map(plain);
        console.log(JSON.stringify({json.dumps(list(cases))}.map((query) => matches(texts, query))));
    """
    result = subprocess.run(["node", "--eval", code], capture_output=True, text=True, check=True)
    assert dict(zip(cases, json.loads(result.stdout), strict=True)) == cases


def test_the_assets_contain_no_end_tag() -> None:
    folder = Path(gallery.__file__).parent
    for name in ("gallery.css", "gallery.js"):
        assert not re.search("</|<!--", (folder / name).read_text("utf-8"))
