"""Prompt files in every format, templates, and wildcards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sdcli.errors import InputFileError, SdcliError
from sdcli.prompts import Prompts
from sdcli.prompts.files import PromptFile
from sdcli.prompts.flags import written_for
from sdcli.prompts.templates import Template, Wildcards
from sdcli.registry import Table
from sdcli.settings import PROMPT_FORMATS, Settings
from tests.fuzz.inputs import ANY_TEXT, changed, damaged, json_text
from tests.fuzz.program import run

READERS = Table({name: line.reader for name, line in PROMPT_FORMATS.items()})
LINES = [
    "a red apple", "a {b|2::c} __colors/dark__", '--prompt "a cat" --steps 20 --cfg_scale 7 --seed -1',
    "a cat --n a dog --w 512 --h 512 --d 1 --l 7.5 --s 20", '"a cat [a dog]" -s 50 -S42 -C7.5 -W512 -H512 -n 2',
    '{"prompt": "a cat", "seed": 7, "out": "a.png"}', '["a", {"prompt": "b", "steps": 3}]',
    "prompt,seed,steps\na cat,7,20\n", "prompt;scale\na;7,5\n", "sep=;\nprompt;seed\n", 'prompt\tseed\n"a\nb"\t7\n',
]  # fmt: skip
PIECES = [
    "{", "}", "|", "__", "\\", '"', "'", "\n", "\r", "\r\n", "\x85", "\u2028", "\0", "\ufeff", "\t", ",", ";", "[",
    "]", "--prompt", "--steps ", "-s", "-S", "::", "2$$", "prompt", "seed", "9" * 5000, "1e999", "{a|", "[" * 20_000,
    '{"a":' * 20_000, "--", "- ", "#", "sep=", "__a__", "__*__", "__../a__", "\x1b[31m", "0.5::", "{{a|b}|c}",
]  # fmt: skip
ROWS: list[Any] = [
    {"prompt": "a cat", "negative_prompt": "", "seed": 7, "steps": 3, "scale": 7.5, "out": "a.png", "sampler": "ddim",
     "height": 64, "images_per_prompt": 2, "ddim_eta": 0.5},
    ["a", {"prompt": "b", "seed": 1}],
]  # fmt: skip
ENCODED = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"])


@st.composite
def contents(draw: Callable[..., Any]) -> bytes:
    """The bytes of a prompt file."""
    if draw(st.integers(0, 3)) == 0:
        rows = draw(st.lists(changed(ROWS), max_size=3))
        text = "\n".join(map(json_text, rows))
    else:
        text = draw(damaged([*LINES, "\n".join(LINES)], PIECES))
    data: bytes = text.encode(draw(ENCODED), "replace")
    if draw(st.integers(0, 3)) == 0:
        data = draw(damaged([data]))
    # A file of a million rows or choices is not damaged, and takes the time that so many take.
    assume(data.count(b"\n") < 20_000 and data.count(b"{") < 100_000)
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wildcards."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "colors").mkdir()
    (folder / "colors" / "dark.txt").write_text("black\n0.5::navy {a|b}\n")
    (folder / "a.txt").write_text("__b__\n")
    (folder / "b.txt").write_text("c\n")
    (folder / "loop.txt").write_text("__loop__\n")
    return folder


@pytest.mark.parametrize("format", PROMPT_FORMATS)
@given(data=contents())
@example(b"")
@example(b"\xff\xfe")
@example(b"\xff\xfea")
@example(b'["' + b"a" * 1_000_000 + b'"]')
@example(b"[" * 100_000)
@example(b'{"prompt": "a", ' + b", ".join(b'"k%d": 1' % n for n in range(100_000)) + b"}")
@example(b'{"prompt": "a", "steps": true}')
@example(b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}")
@example(b'{"prompt": "a", "scale": 1e999}')
@example(b'{"prompt": "\\ud800"}')
@example(b'{"prompt": "a", "out": "a\\u009b"}')
@example(b"a -n 99999999999999999999999 -n 9")
@example(b"--prompt a --batch_size " + "\u00b2".encode())
@example(b"prompt,seed\n" + b'"' * 999)
@example(b"a " * 2_000_000)
@example(b"--prompt " + b"a " * 1_000_000)
@example(b"[a] " * 500_000)
def test_every_format_gives_rows_or_says_where_the_error_is(folder: Path, format: str, data: bytes) -> None:
    path = folder / "prompts"
    path.write_bytes(data)
    file = PromptFile(str(path), again=False)
    with suppress(InputFileError):
        for place, content in READERS[format](file):
            assert place.startswith((f"{path}, line ", f"{path}, item "))
            if isinstance(content, InputFileError):
                assert place in str(content)
            else:
                assert isinstance(content, (str, dict))
    settings = Settings.of(from_file=str(path), prompt_format=format, wildcards=str(folder))
    errors: list[InputFileError] = []
    with suppress(SdcliError):
        prompts = Prompts(settings, on_invalid=errors.append)
        prompts.count()
        for prompt in islice(prompts, 100):
            assert isinstance(prompt.text, str)
            prompt.text.encode()
            assert isinstance(prompt.settings, Settings)
            assert prompt.seed is None or 0 <= prompt.seed < 2**64
    for error in errors:
        assert str(error).startswith((f"{path}, line ", f"{path}, item "))


@given(
    data=contents(),
    format=st.sampled_from(sorted(PROMPT_FORMATS)),
    flag=st.sampled_from(["--compat", "--matrix", "--quiet", "--plms"]),
)
def test_a_dry_run_reads_any_file(folder: Path, data: bytes, format: str, flag: str) -> None:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    run(
        "txt2img", "--dry-run", "--from-file", str(path), "--prompt-format", format, flag, "--outdir",
        str(folder / "out"), "--wildcards", str(folder), "--on-error", "skip",
    )  # fmt: skip


TEMPLATES = damaged([*LINES, "{a|{b|c}} __colors/dark__ {2::d|e}", "__colors/*__ __a__ __loop__"], PIECES)


@given(
    text=TEMPLATES | ANY_TEXT, lines=st.lists(TEMPLATES, max_size=2), seed=st.integers(0, 2**64), index=st.integers(0)
)
@example("{" * 100_000, [], 0, 0)
@example("{a|" * 100_000, [], 0, 0)
@example("{a|b}" * 100_000, [], 0, 0)
@example("{a|b}" * 1100, [], 0, 0)
@example("{" + "a|" * 500_000 + "}", [], 0, 0)
@example("__" * 500_000, [], 0, 0)
@example("__a" * 300_000, [], 0, 0)
@example("[" * 300_000 + "{a|b}", [], 0, 0)
@example("__**__" * 300, [], 0, 0)
@example("__" + "*a" * 200 + "__", [], 0, 0)
@example("__" + "a" * 300 + "__", [], 0, 0)
@example("__w__", ["__w__"], 0, 0)
@example("{9" + "9" * 5000 + "::a}", [], 0, 0)
def test_any_template_gives_prompts(folder: Path, text: str, lines: list[str], seed: int, index: int) -> None:
    (folder / "w.txt").write_bytes("\n".join(lines).encode(errors="replace"))
    written_for(text)
    with suppress(InputFileError):
        template = Template.parse(text, Wildcards(folder))
        assert isinstance(template.choose(seed, index), str)
        if not template.has_more_than(100):
            found = list(template.all())
            assert len(found) == template.combinations
            assert template.choose(seed, index) in found
        else:
            assert len(list(islice(template.all(), 3))) == 3


@given(data=damaged([b"red\ngreen\n", b"\xff\xfer\0\n\0", b"2::a\n0::b\n", b"\xe4\n", b"__w__\n", b"# a\n\n"]))
def test_any_wildcard_file_is_read(folder: Path, data: bytes) -> None:
    (folder / "w.txt").write_bytes(data)
    with suppress(InputFileError):
        Template.parse("a __w__ __*__", Wildcards(folder)).choose(0, 0)
