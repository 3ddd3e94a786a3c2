"""README and documentation agree with the program and with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGPIPE, SIGTERM
from typing import Any

import pytest
import typer

from sdcli import errors
from sdcli.cli import app
from sdcli.cli.reference import PLACE, filled
from sdcli.settings import spellings
from sdcli.suggestions import elsewhere

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:sdcli|tests|training|benchmarks)/[\w./-]+)`")
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
OTHER_FLAGS = {"--constraint", "--help"}
"""Flags of pip, and the one that Typer adds to every command."""


@pytest.mark.parametrize("name", ["settings.md", "samplers.md"])
def test_tables_are_up_to_date(name: str) -> None:
    """`make docs` writes them."""
    page = (ROOT / "docs" / name).read_text()
    assert PLACE.search(page)
    assert filled(page) == page


def test_exit_codes_are_those_of_the_program() -> None:
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SdcliError)
    }
    signals = {errors.EXIT_SIGNAL + number for number in (SIGHUP, SIGINT, SIGPIPE, SIGTERM)}
    documented = re.findall(r"^\| (\d+) \|", (ROOT / "docs/scripting.md").read_text(), re.MULTILINE)
    assert set(map(int, documented)) == codes | signals | {0, errors.EXIT_NO, errors.EXIT_BUG}


def test_readme_is_a_front_page() -> None:
    assert len(README.read_text().splitlines()) <= 120


def test_banner_is_small() -> None:
    assert (ROOT / "docs/images/banner.webp").stat().st_size <= 600_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_exist(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in set(_anchors(target)), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_exist(page: Path) -> None:
    known = _known_flags()
    unknown = [flag for flag in FLAG.findall(page.read_text()) if _plain(flag) not in known]
    if page.name == "compatibility.md":  # which says what flags of other tools get as an answer
        unknown = [flag for flag in unknown if not elsewhere(flag)]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    """Paths of the repository in backticks. NAME stands for a file that the reader adds."""
    paths = [path for path in PATH.findall(page.read_text()) if "NAME" not in path]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_architecture_names_every_module() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    modules = [path for path in (ROOT / "sdcli").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in modules]
    assert [name for name in names if not name.startswith("__") and f"`{name}`" not in page] == []


def _known_flags() -> set[str]:
    """The flags of all commands, of the scripts in `training/` and `benchmarks/`, and `OTHER_FLAGS`."""
    flags = {flag for command in _commands(typer.main.get_command(app)) for p in command.params for flag in p.opts}
    for folder in ("training", "benchmarks"):
        for script in (ROOT / folder).glob("*.py"):
            flags |= set(re.findall(r'"(--[a-z][\w-]*)"', script.read_text()))
    return {_plain(flag) for flag in flags | OTHER_FLAGS} | set(spellings())


def _commands(command: Any) -> Iterator[Any]:
    """A command, those in it, and those in these."""
    command = getattr(command, "command", command)
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _commands(each)


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _anchors(page: Path) -> Iterator[str]:
    """The anchors of a page's headings, as GitHub and MkDocs write them."""
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
