"""Output names: what is accepted stays inside the folder, and can be a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import Job, NoisePlace
from sdcli.outputs import names
from sdcli.registry import FORMATS
from sdcli.settings import default
from sdcli.settings import names as settings_names
from tests.fuzz.inputs import ANY_TEXT, assert_printable, damaged

NAMES = damaged(
    ["a.png", "cats/one.png", "con", "a./b", "a ", "a.png/b", "../a", "/a", "~/a", "c:a", "nul.txt", "a.jpeg", "A.PNG"],
    ["/", "..", ".", " ", "\\", ":", "\0", "con", ".png", "\u202e", "\x9b", "x" * 300, "\ud800", "~", "%", "a/" * 2000],
)
PATTERNS = damaged(
    ["{index:05}-{prompt:slug}", "{seed}/{prompt}", "{steps}.png", "{model_hash:.8}", "{scale:.1f}"],
    ["{", "}", "{{", "}}", ":", "!r", ".__class__", "[0]", "{prompt}", "{index:0999999999}", ":>200", "/", "..", "{}",
     "{eta:e}", "{seed:x}", "{prompt:{index}}", "{prompt:{prompt}}", "{index:c}", "{scale:%}", "{index:,}", ".webp"],
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names").resolve()


def require_inside(folder: Path, name: str) -> None:
    """Check that a name is one of a file below the folder."""
    assert_printable(name)
    path = folder / name
    assert path.resolve() == path
    assert folder in path.parents
    assert path.suffix
    # Thousands of folders in each other would take long to create.
    if len(path.parts) < 20:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(IsADirectoryError):  # made for another name
            path.touch()
            path.unlink()


@pytest.mark.parametrize("format", FORMATS)
@given(name=NAMES | ANY_TEXT)
@example("con")
@example("a.png/b")
@example("a/" * 2000 + "b")
@example("\ud800")
@example("a\x9b")
def test_an_accepted_name_stays_inside_the_folder(folder: Path, format: str, name: str) -> None:
    for require in (names.require_name, names.require_portable):
        with suppress(UsageError):
            require_inside(folder, require(name, format, "out"))


def job(**values: object) -> Job:
    image = {name: default(name) for name in settings_names("image")} | {
        "steps": 1,
        "height": 1,
        "width": 1,
        "scale": 1.0,
    }
    return Job(**image | values, noise=NoisePlace())


@given(
    pattern=PATTERNS | ANY_TEXT,
    format=st.sampled_from(sorted(FORMATS)),
    prompt=st.text() | st.sampled_from(["..", "/", "a/../..", ".", " ", "x" * 999, "\u0300" * 99]),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**64),
    scale=st.floats(allow_nan=False, allow_infinity=False),
)
@example("{index:0999999999}", "png", "a", 0, 0, 1.0)
@example("{prompt:{index}}", "png", "a", 0, 10**9, 1.0)
@example("{prompt}.png", "png", "photo.jpg", 0, 0, 1.0)
def test_an_accepted_pattern_gives_names_inside_the_folder(
    folder: Path, pattern: str, format: str, prompt: str, seed: int, index: int, scale: float
) -> None:
    with suppress(UsageError):
        names.check_pattern(pattern, format)
        wanted = job(
            prompt=prompt, seed=seed, index=index, scale=scale, model=prompt.replace("\0", ""), model_hash="0" * 64
        )
        name = names.name_of(wanted, pattern, format)
        assert name is not None
        require_inside(folder, name)


@given(text=st.text(max_size=200))
@example("\u0300" * 200)
@example("x" * 200)
def test_a_slug_is_a_name(folder: Path, text: str) -> None:
    slug = names.slug(text)
    assert "/" not in slug
    assert 0 < len(slug.encode()) <= 120
    require_inside(folder, f"{slug}.png")
