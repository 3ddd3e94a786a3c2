"""Prompts of flags, files and streams: their order and seeds, and the files and rows that are refused."""

import csv
import io
import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.errors import InputFileError, UsageError
from sdcli.prompts import Prompt, Prompts, Row
from sdcli.settings import Settings, names, options

FORMATS = ("text", "jsonl", "csv")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a prompt file with these bytes or this text, and returns its path."""

    def write(data: bytes | str, name: str = "prompts.txt") -> str:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    return write


def prompts(file: str | None = None, **settings: object) -> list[Prompt]:
    if file is not None:
        settings = {"from_file": file, "n_iter": 1} | settings
    return list(Prompts(Settings.of(**settings)))


def texts(file: str | None = None, **settings: object) -> list[str]:
    return [prompt.text for prompt in prompts(file, **settings)]


def refused(file: str, **settings: object) -> InputFileError:
    """The error of an invalid file, which is read as a whole before the first image is generated."""
    with pytest.raises(InputFileError) as caught:
        Prompts(Settings.of(from_file=file, **settings)).count()
    assert caught.value.exit_code == 3
    return caught.value


class TestFlag:
    def test_a_prompt_gives_n_samples_images_in_each_pass(self) -> None:
        found = prompts(prompt="a cat", n_samples=3, n_iter=2)
        assert [(one.text, one.index, one.iteration) for one in found] == [("a cat", i, i // 3) for i in range(6)]
        assert {one.seed for one in found} == {None}
        assert {one.out for one in found} == {None}

    def test_images_per_prompt_replaces_n_samples(self) -> None:
        assert len(prompts(prompt="a cat", n_samples=3, images_per_prompt=5)) == 5
        assert len(prompts(prompt="a cat", n_samples=3, images_per_prompt=5, n_iter=2)) == 10

    def test_several_prompts_have_as_many_images_each(self) -> None:
        both = ("a cat", "a dog")
        assert texts(prompt=both, n_samples=2, n_iter=2) == ["a cat", "a cat", "a dog", "a dog"] * 2
        assert texts(prompt=both, images_per_prompt=1) == ["a cat", "a dog"]
        assert texts(prompt=["{a|b}", "c"], matrix=True) == ["a", "b", "c"]
        found = prompts(prompt=both, n_samples=2, n_iter=2)
        assert [(one.index, one.iteration) for one in found] == [(i, i // 4) for i in range(8)]

    def test_several_seeds_give_each_prompt_one_image_with_each(self) -> None:
        found = prompts(prompt=["a cat", "a dog"], seed=[5, 2**64 - 1])
        assert [(one.text, one.seed) for one in found] == [
            ("a cat", 5), ("a cat", 2**64 - 1), ("a dog", 5), ("a dog", 2**64 - 1),
        ]  # fmt: skip
        found = prompts(prompt="{a|b}", matrix=True, seed="1-2")
        assert [(one.text, one.seed) for one in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
        assert Prompts(Settings.of(prompt=["a", "b"], seed="1,2,3")).count() == 6

    def test_a_step_between_seeds(self) -> None:
        assert [one.seed for one in prompts(prompt="a", seed=7, seed_step=10, n_iter=1)] == [7, 17, 27]
        assert [one.seed for one in prompts(prompt="a", seed=7, seed_step=0, n_iter=1)] == [7, 7, 7]
        assert [one.seed for one in prompts(prompt="a", seed=2**64 - 1, seed_step=2, n_iter=1)] == [2**64 - 1, 1, 3]

    def test_matrix_gives_every_combination_once(self) -> None:
        assert texts(prompt="a {red|blue} cat", matrix=True) == ["a red cat", "a blue cat"]
        each = ["a", "a", "b", "b"]
        assert texts(prompt="{a|b}", matrix=True, images_per_prompt=2) == each
        assert texts(prompt="{a|b}", matrix=True, images_per_prompt=2, n_iter=2) == each * 2

    def test_choices_depend_on_seed_and_index(self) -> None:
        template = "{" + "|".join(map(str, range(1000))) + "}"
        first = texts(prompt=template, n_samples=8, n_iter=1, seed=1)
        assert len(set(first)) > 1
        assert texts(prompt=template, n_samples=8, n_iter=1, seed=1) == first
        assert texts(prompt=template, n_samples=8, n_iter=1, seed=2) != first

    def test_braces_are_ordinary_characters_with_compat(self) -> None:
        assert texts(prompt="{a|b} __c__", n_samples=1, n_iter=1, compat=True) == ["{a|b} __c__"]

    def test_an_invalid_prompt_is_found_by_counting(self) -> None:
        def check(row: Row) -> Row:
            raise UsageError(f"no {row.text}")

        with pytest.raises(UsageError, match="no a cat"):
            Prompts(Settings.of(prompt="a cat"), check).count()


class TestText:
    @pytest.mark.parametrize(
        ("data", "lines"),
        [
            (b"one\ntwo\n", ["one", "two"]),
            (b"one\r\ntwo", ["one", "two"]),
            (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", ["one", "\ufefftwo"]),
            ("ein Fuchs im Café\n一只猫\n🐱👩‍🚀\n".encode(), ["ein Fuchs im Café", "一只猫", "🐱👩‍🚀"]),
            (b"# all of them\n\none\n \t\n#two\nthree # not four\n", ["one", "three # not four"]),
            ("a\u2028b\x0bc\rd\x85e\n".encode(), ["a", "b", "c", "d", "e"]),
            (b" indented  \n", [" indented  "]),
            (b'one\n{"prompt": "two"}\n', ["one", '{"prompt": "two"}']),
            (b"{curly}\n", ["{curly}"]),
        ],
    )
    def test_lines(self, write: Callable[..., str], data: bytes, lines: list[str]) -> None:
        assert texts(write(data)) == lines

    def test_every_line_is_a_prompt_with_compat(self, write: Callable[..., str]) -> None:
        path = write(b'\xef\xbb\xbf# one\n\n{"prompt": 1}\r\n{a|b}\n')
        assert texts(path, compat=True) == ["# one", "", '{"prompt": 1}', "{a|b}"]

    @given(text=st.text(st.sampled_from("ab #\n\r\x0b\x0c\x1c\x1d\x85\u2028\u2029") | st.characters(codec="utf-8")))
    def test_lines_are_those_of_splitlines(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        if "\0" in text or text.startswith("\ufeff") or not text:
            return
        path = tmp_path_factory.getbasetemp() / "lines.txt"
        path.write_bytes(text.encode())
        assert texts(str(path), compat=True) == text.splitlines()
        # Blank lines are those that `str.strip` empties.
        expected = [line for line in text.splitlines() if line.strip() and line[0] not in "#{\\"]
        if expected and not any(character in text for character in "{\\_"):
            assert texts(str(path), prompt_format="text") == expected

    def test_a_file_is_repeated_as_a_whole(self, write: Callable[..., str]) -> None:
        found = prompts(write("one\ntwo\nthree\n"), n_iter=2)
        assert [one.text for one in found] == ["one", "two", "three"] * 2
        assert [one.index for one in found] == list(range(6))
        assert [one.iteration for one in found] == [0] * 3 + [1] * 3

    def test_every_line_gives_images_per_prompt_images(self, write: Callable[..., str]) -> None:
        assert texts(write("one\ntwo\n"), images_per_prompt=2) == ["one", "one", "two", "two"]

    def test_a_json_object_is_not_a_prompt(self, write: Callable[..., str]) -> None:
        path = write('\n# rows\n{"prompt": "a cat"}\n')
        error = refused(path)
        assert error.what.startswith(f"{path}, line 3: ")
        assert "--prompt-format jsonl" in error.fix
        assert "--compat" in error.fix
        assert texts(path, compat=True) == ["", "# rows", '{"prompt": "a cat"}']

    def test_the_error_for_a_missing_wildcard_names_the_line(self, write: Callable[..., str], tmp_path: Path) -> None:
        path = write("one\na __beast__\n")
        error = refused(path, wildcards=str(tmp_path))
        assert error.what.startswith(f"{path}, line 2: ")
        assert "__beast__" in error.what


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "phrase", "why"),
        [
            (b"", " is empty", ""),
            (b"\xef\xbb\xbf", " is empty", ""),
            (b"\n# nothing\n", " is empty", ""),
            (b"a cat\n\0\1\2", ", line 2: the file is binary", "It contains a zero byte."),
            (b"ok\ncaf\xe9\n", ", line 2: the line is not UTF-8", "It contains the byte 0xe9."),
            (b"\xff\xfea\0\n\0\0\0", ", line 2: the file is binary", "It contains a zero byte."),
            (b"a\0\n\0", ", line 1: the file is binary", "It contains a zero byte."),
            (b"\xff\xfea\0\n\0b", ", line 2: the line is not UTF-16", "The file begins as UTF-16, and truncated data."),
        ],
    )
    def test_files_that_are_not_text(self, write: Callable[..., str], data: bytes, phrase: str, why: str) -> None:
        path = write(data)
        error = refused(path)
        assert error.what.endswith(f"{path}{phrase}")
        assert error.why == why

    @pytest.mark.parametrize(("name", "first"), [("p.jsonl", b'{"prompt": "a"}\n'), ("p.csv", b"prompt\n")])
    def test_rows_that_are_not_text(self, write: Callable[..., str], name: str, first: bytes) -> None:
        for data, phrase in (
            (b"\0", "the file is binary"),
            (b"caf\xe9", "the line is not UTF-8"),
            (b"\n\xff\xfe", "the line is not UTF-8"),
        ):
            path = write(first + data + b"\n", name)
            assert refused(path).what == f"{path}, line {2 + data.count(10)}: {phrase}"
            path = write(data + b"\n" + first, name)
            assert refused(path).what == f"{path}, line {1 + data.count(10)}: {phrase}"

    @pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
    @pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n \n"])
    def test_a_file_without_rows(self, write: Callable[..., str], name: str, data: bytes) -> None:
        assert refused(write(data, name)).what.endswith(f"{name} is empty")

    def test_a_missing_file_and_a_folder_have_different_errors(self, tmp_path: Path) -> None:
        for file, phrase in (("none.txt", "does not exist"), (".", "is a folder"), ("x" * 300, "cannot be read")):
            with pytest.raises(InputFileError, match=phrase):
                Prompts(Settings.of(from_file=str(tmp_path / file)))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
    def test_a_file_without_read_permission(self, write: Callable[..., str]) -> None:
        path = write("a cat\n")
        Path(path).chmod(0)
        assert "cannot be read" in refused(path).what


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(*rows: dict[str, object]) -> str:
    """The rows as CSV. All have the same names."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


VALUES: dict[str, object] = {
    "negative_prompt": "a dog", "seed": 7, "rng": "cpu", "steps": 20, "sampler": "dpm_solver", "scale": 3.5, "eta": 0.5,
    "schedule": "trailing", "sigmas": "5,1", "prompt_syntax": "a1111",
    "long_prompt": "chunk", "clip_skip": 2, "guidance_rescale": 0.5,
    "height": 256, "width": 384, "precision": "full", "images_per_prompt": 2, "lora": "ink.safetensors:0.5",
    "embedding": "toy.pt=cat-toy", "vae": "taesd", "original_size": "9x8", "crop": "1,2",
}  # fmt: skip


class TestRows:
    """JSON Lines and CSV."""

    def test_the_table_has_every_setting_of_a_row(self) -> None:
        assert VALUES.keys() == set(names(row=True)) - {"prompt"}

    @pytest.mark.parametrize("name", list(VALUES))
    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_every_setting_by_every_spelling(self, write: Callable[..., str], name: str, kind: str) -> None:
        value = VALUES[name]
        of_run = {"eta": {}, "sigmas": {"sampler": "euler"}}.get(name, {"sampler": "ddim"})
        for flag in (name, *options()[name].names):
            for spelling in {flag, flag.lstrip("-"), flag.replace("_", "-"), flag.lstrip("-").replace("-", "_")}:
                row = {"prompt": "a cat", spelling: value}
                path = write(jsonl(row) if kind == "jsonl" else as_csv(row), f"rows.{kind}")
                (first, *_) = found = prompts(path, **of_run)
                expected = (value,) if options()[name].repeats else value
                assert getattr(first.settings, name) == expected, spelling
                assert first.text == "a cat"
                assert len(found) == (2 if name == "images_per_prompt" else 1)

    def test_a_row_overrides_the_run_for_itself_only(self, write: Callable[..., str]) -> None:
        rows = [{"prompt": "one", "steps": 9, "sampler": "dpm-solver"}, {"prompt": "two"}]
        path = write(jsonl(*rows), "rows.jsonl")
        one, two = prompts(path, steps=30, scale=2.0, plms=True, height=256)
        assert (one.settings.steps, one.settings.sampler) == (9, "dpm_solver")
        assert (two.settings.steps, two.settings.sampler) == (30, "plms")
        assert {(row.settings.scale, row.settings.height) for row in (one, two)} == {(2.0, 256)}

    def test_the_name_of_a_sampler_sets_its_schedule(self, write: Callable[..., str]) -> None:
        rows = [{"prompt": "a", "sampler": "DPM++ 2M Karras"}, {"prompt": "b"}, {"prompt": "c", "schedule": "Uniform"},
                {"prompt": "d", "sampler": "heun", "schedule": "Beta"}]  # fmt: skip
        path = write(jsonl(*rows), "rows.jsonl")
        found = [(row.settings.sampler, row.settings.schedule) for row in prompts(path, sampler="Euler Exponential")]
        assert found == [("dpmpp_2m", "karras"), ("euler", "exponential"), ("euler", "linspace"), ("heun", "beta")]
        found = [(row.settings.schedule, row.settings.sigmas) for row in prompts(path, sampler="lms", sigmas="5,1")][:3]
        assert found == [("karras", ""), ("auto", "5,1"), ("linspace", "")]
        flags = write('--prompt a --sampler_name "LMS Karras"\n')
        (row,) = prompts(flags, prompt_format="a1111")
        assert (row.settings.sampler, row.settings.schedule) == ("lms", "karras")

    def test_seeds_of_a_row(self, write: Callable[..., str]) -> None:
        rows = ({"prompt": "a", "seed": [8, 3]}, {"prompt": "b", "seed": "1-2"}, {"prompt": "c", "seed": 5},
                {"prompt": "d"}, {"prompt": "e", "seed": -1}, {"prompt": "f", "seed": "random"})  # fmt: skip
        path = write(jsonl(*rows), "rows.jsonl")
        own = [("a", 8), ("a", 3), ("b", 1), ("b", 2), ("c", 5)]
        found = prompts(path)
        assert [(one.text, one.seed) for one in found] == [*own, ("d", None), ("e", None), ("f", None)]
        found = prompts(path, seed=[6, 7])
        assert [(one.text, one.seed) for one in found] == [
            *own, ("d", 6), ("d", 7), ("e", 6), ("e", 7), ("f", 6), ("f", 7),
        ]  # fmt: skip
        found = prompts(path, images_per_prompt=2, seed_step=10, seed=100)
        assert [(one.text, one.seed) for one in found][:6] == [*own, ("c", 15)]
        path = write(as_csv({"prompt": "a", "seed": "1,2"}), "rows.csv")
        assert [one.seed for one in prompts(path)] == [1, 2]

    def test_rows_of_a_run_with_the_laion_model(self, write: Callable[..., str]) -> None:
        path = write(jsonl({"prompt": "one", "steps": 9}), "rows.jsonl")
        (one,) = prompts(path, laion400m=True, outdir="here")
        assert one.settings.checkpoint == "models/ldm/text2img-large/model.ckpt"
        assert one.settings.outdir == "here"

    def test_null_leaves_the_setting_of_the_run(self, write: Callable[..., str]) -> None:
        row = dict.fromkeys(VALUES, None) | {"prompt": "a cat", "out": None}
        (one,) = prompts(write(jsonl(row), "rows.jsonl"), seed=5, steps=30, negative_prompt="a dog")
        assert (one.settings.steps, one.settings.negative_prompt, one.seed, one.out) == (30, "a dog", None, None)

    def test_an_empty_field_leaves_the_setting_of_the_run(self, write: Callable[..., str]) -> None:
        path = write("prompt,seed,steps,out,sampler\none,,,,\ntwo,3,4,x,plms\n", "rows.csv")
        one, two = prompts(path, steps=30)
        assert (one.settings.steps, one.seed, one.out, one.settings.sampler) == (30, None, None, "auto")
        assert (two.settings.steps, two.seed, two.out, two.settings.sampler) == (4, 3, "x", "plms")

    def test_an_empty_prompt_is_valid(self, write: Callable[..., str]) -> None:
        path = write(jsonl({"prompt": "", "negative_prompt": ""}), "rows.jsonl")
        (one,) = prompts(path, prompt="a cat", negative_prompt="a dog")
        assert (one.text, one.settings.negative_prompt) == ("", "")

    def test_blank_lines_are_ignored(self, write: Callable[..., str]) -> None:
        assert texts(write('\n{"prompt": "one"}\n  \n{"prompt": "two"}', "rows.jsonl")) == ["one", "two"]
        assert texts(write("\nprompt,seed\n\none,1\n,\ntwo,2", "rows.csv")) == ["one", "two"]

    def test_characters_of_any_script(self, write: Callable[..., str]) -> None:
        prompt = 'ein Fuchs, "Café"\n一只猫 🐱'
        for name, text in (("rows.jsonl", jsonl({"prompt": prompt})), ("rows.csv", as_csv({"prompt": prompt}))):
            assert texts(write("\ufeff" + text, name)) == [prompt]

    def test_csv_keeps_line_breaks_and_quotes_within_quotes(self, write: Callable[..., str]) -> None:
        path = write('prompt,seed\r\n"a cat,\r\n""big""\n and red",3\r\n a dog ,4\r\n', "rows.csv")
        assert [(one.text, one.seed) for one in prompts(path)] == [
            ('a cat,\r\n"big"\n and red', 3),
            (" a dog ", 4),
        ]

    @pytest.mark.parametrize(
        ("row", "phrase"),
        [
            ({"prompt": "x", "step": 5}, "no setting step"),
            ({"prompt": "x", "outdir": "y"}, "no setting outdir"),
            ({"prompt": "x", "n_samples": 5}, "no setting n_samples"),
            ({"prompt": "x", "steps": 5, "ddim_steps": 5}, "steps is set twice"),
            ({"prompt": "x", "H": 64, "--height": 64}, "height is set twice"),
            ({"prompt": "x", "steps": 0}, "--ddim_steps 0 is out of range"),
            ({"prompt": "x", "steps": "many"}, "--ddim_steps 'many' is not valid"),
            ({"prompt": "x", "seed": -2}, "--seed -2 is out of range"),
            ({"prompt": "x", "seed": 1.5}, "--seed 1.5 is not valid"),
            ({"prompt": "x", "scale": float("nan")}, "is not a number"),
            ({"prompt": "x", "sampler": "DPM fast"}, "--sampler 'DPM fast' is not valid"),
            ({"prompt": "x", "sampler": "plms", "eta": 0.5}, "cannot be used with the sampler plms"),
            ({"prompt": "x", "images_per_prompt": 0}, "--images-per-prompt 0 is out of range"),
            ({"seed": 5}, "the row has no prompt"),
            ({"prompt": None}, "the row has no prompt"),
            ({}, "the row has no prompt"),
            ({"prompt": 5}, "prompt 5 is not text"),
            ({"prompt": ["x"]}, "is not text"),
            ({"prompt": "x", "out": 5}, "out 5 is not text"),
            ({"prompt": "x", "negative_prompt": 5}, "--negative-prompt 5 is not valid"),
            ({"prompt": "x", "steps": [5]}, "--ddim_steps [5] is not valid"),
            ({"prompt": "x", "sampler": {"a": 1}}, "is not valid"),
            ({"prompt": "x", "sampler": "LMS Karras", "schedule": "beta"}, "contradicts --schedule beta"),
            ("a cat", "the line is not a JSON object"),
            (["a cat"], "the line is not a JSON object"),
            (None, "the line is not a JSON object"),
            # Half of a character, which JSON can express and no file can store.
            ({"prompt": "\ud83d"}, "prompt '\\ud83d' contains half of a character"),
            ({"prompt": "x", "negative_prompt": "\ud83d"}, "negative_prompt '\\ud83d' contains half"),
            ({"prompt": "x", "out": "\ud83d"}, "out '\\ud83d' contains half"),
        ],
    )
    def test_the_error_for_an_invalid_row_names_its_line(
        self, write: Callable[..., str], row: object, phrase: str
    ) -> None:
        path = write(jsonl({"prompt": "fine"}, row), "rows.jsonl")
        error = refused(path)
        assert error.what.startswith(f"{path}, line 2: ")
        assert phrase in error.what
        str(error).encode()

    def test_the_error_names_the_nearest_setting(self, write: Callable[..., str]) -> None:
        for wrong, near in (
            ("promt", "prompt"),
            ("step", "steps"),
            ("hight", "height"),
            ("negative_promt", "negative_prompt"),
        ):
            error = refused(write(jsonl({"prompt": "x", wrong: 1}), "rows.jsonl"))
            assert error.why == f"Did you mean {near}?"
        error = refused(write(jsonl({"prompt": "x", "qqq": 1}), "rows.jsonl"))
        assert error.why == ""
        assert all(name in error.fix for name in (*names(row=True), "out"))

    @pytest.mark.parametrize(
        "line",
        ['{"prompt": "x"', "{prompt: 'x'}", "a cat", "[" * 100_000, "1" * 5000, '{"prompt": "x", "prompt": "y"}'],
    )
    def test_lines_that_are_not_json(self, write: Callable[..., str], line: str) -> None:
        path = write(f'{{"prompt": "fine"}}\n{line}\n', "rows.jsonl")
        error = refused(path)
        assert error.what == f"{path}, line 2: the line is not JSON"
        assert error.why.endswith(".")

    @pytest.mark.parametrize(
        ("text", "phrase"),
        [
            ("prompt,seed\na cat, asleep,5\n", "line 2: the row has 3 fields, and the header has 2"),
            ("prompt,seed\na cat\n", "line 2: the row has 1 fields, and the header has 2"),
            ('prompt,seed\n"a"b,5\n', "line 2: the row is not CSV"),
            ('prompt,seed\n"a\n\nb,5\n', "line 4: the row is not CSV"),
            ("prompt,seed\n\n\na,x\n", "line 4: --seed 'x' is not valid"),
            ('prompt,seed\n"a\nb",1\nc,-2\n', "line 4: --seed '-2'"),
            ("\nprompt,sede\na,1\n", "line 2, the header: an image has no setting sede"),
            ("prompt,prompt\na,1\n", "line 1, the header: a column name is used twice"),
            ("prompt,H,height\na,1,2\n", "line 1, the header: height is set twice"),
            ("seed,steps\n1,2\n", "line 1, the header: the row has no prompt"),
            ("prompt,\na,1\n", "line 1, the header: an image has no setting "),
            ("a cat\n", "line 1, the header: an image has no setting a cat"),
        ],
    )
    def test_files_that_are_not_csv(self, write: Callable[..., str], text: str, phrase: str) -> None:
        path = write(text, "rows.csv")
        error = refused(path)
        assert error.what.startswith(f"{path}, {phrase}".replace("--seed '-2'", "--seed -2")), error.what

    def test_a_header_without_rows_is_an_empty_file(self, write: Callable[..., str]) -> None:
        assert refused(write("prompt,seed\n", "rows.csv")).what.endswith("is empty")

    def test_the_error_for_a_row_that_cannot_be_generated_names_its_line(self, write: Callable[..., str]) -> None:
        def check(row: Row) -> Row:
            if row.settings.height == 100:
                raise UsageError("--H 100 is not a size", why="Because.", fix="Pass 128.")
            return row

        path = write(jsonl({"prompt": "a"}, {"prompt": "b", "H": 100}), "rows.jsonl")
        with pytest.raises(InputFileError) as caught:
            Prompts(Settings.of(from_file=path), check).count()
        error = caught.value
        assert (error.what, error.why, error.fix) == (f"{path}, line 2: --H 100 is not a size", "Because.", "Pass 128.")


class TestFormat:
    ROW = '{"prompt": "a cat"}\n'

    @pytest.mark.parametrize("name", ["p.jsonl", "p.JSONL", "p.ndjson", "p.csv.jsonl"])
    def test_the_suffix_selects_json_lines(self, write: Callable[..., str], name: str) -> None:
        assert texts(write(self.ROW, name)) == ["a cat"]

    def test_the_suffix_selects_csv(self, write: Callable[..., str]) -> None:
        assert texts(write("prompt\na cat\n", "p.CSV")) == ["a cat"]
        assert texts(write("prompt\na cat\n", "csv")) == ["prompt", "a cat"]

    def test_a_given_format_overrides_the_suffix(self, write: Callable[..., str]) -> None:
        assert texts(write(self.ROW, "p.txt"), prompt_format="jsonl") == ["a cat"]
        assert texts(write("prompt\na cat\n", "p.jsonl"), prompt_format="csv") == ["a cat"]
        assert texts(write("prompt\na cat\n", "p.csv"), prompt_format="text") == ["prompt", "a cat"]

    def test_the_suffix_selects_json_and_tsv(self, write: Callable[..., str]) -> None:
        assert texts(write('["a cat", "a dog"]', "p.json")) == ["a cat", "a dog"]
        assert texts(write("prompt\tseed\na cat, asleep\t7\n", "p.TSV")) == ["a cat, asleep"]

    @pytest.mark.parametrize("name", ["p.yaml", "p.yml", "p.toml", "p.xml"])
    def test_other_formats_are_refused_by_name(self, write: Callable[..., str], name: str) -> None:
        path = write("- a cat\n", name)
        assert f"{path} is {name[2:].upper().replace('YML', 'YAML')}, which sdcli does not read" in refused(path).what
        assert texts(path, prompt_format="text") == ["- a cat"]

    @pytest.mark.parametrize(
        ("data", "format"),
        [
            ("[\n 1\n]", "json"),
            ('\n\n[ {"prompt": "a"},', "json"),
            ('["a cat",\n"a dog"]', "json"),
            ('["a cat", "a dog"]', "json"),
            ("[]", "json"),
            ('{\n "prompt": "a"\n}', "json"),
            ('{"prompt":\n"a"}', "json"),
            ("prompt\tseed\na\t7", "tsv"),
            ("id\tPrompt\n1\ta", "tsv"),
        ],
    )
    def test_text_that_begins_as_another_format_is_refused(
        self, write: Callable[..., str], data: str, format: str
    ) -> None:
        path = write(data)
        error = refused(path)
        assert f"--prompt-format {format}" in error.fix
        assert texts(path, compat=True) == data.splitlines()
        assert Prompts(Settings.of(from_file=path, prompt_format="text", wildcards="none")).count()

    @pytest.mark.parametrize(
        "line",
        ["[black | grey] cat", "[a cat:a dog:0.5]", "[{red|blue} cat]", '["quoted" style] a cat', "a\tcat", "{a|b}"],
    )
    def test_brackets_and_tabs_in_prompts(self, write: Callable[..., str], line: str) -> None:
        assert len(texts(write(f"{line}\nanother"))) == 2

    def test_compat_applies_to_text_and_braces(self, write: Callable[..., str]) -> None:
        path = write('\n{"prompt": "{a|b}"}\n', "p.jsonl")
        assert texts(path, compat=True) == ["{a|b}"]


class TestRepeats:
    """The default number of passes over the prompts."""

    @pytest.mark.parametrize(
        ("settings", "passes"),
        [
            ({}, 2),
            ({"from_file": "p.txt"}, 2),
            ({"from_file": "p.jsonl"}, 1),
            ({"from_file": "p.csv"}, 1),
            ({"from_file": "-"}, 1),
            ({"from_file": "p.txt", "prompt_format": "csv"}, 1),
            ({"from_file": "p.csv", "prompt_format": "text"}, 2),
            ({"images_per_prompt": 4}, 1),
            ({"matrix": True}, 1),
            ({"prompt_format": "jsonl"}, 1),
            ({"from_file": "p.json"}, 1),
            ({"from_file": "p.tsv"}, 1),
            ({"from_file": "p.txt", "prompt_format": "a1111"}, 1),
        ],
    )
    def test_two_as_in_the_original_or_one_for_new_sources(self, settings: dict[str, object], passes: int) -> None:
        assert Settings.of(**settings).n_iter == passes
        assert Settings.of(**settings, n_iter=3).n_iter == 3


def rows(kind: str, *prompts: str) -> list[str]:
    """The lines of a file of these prompts. The first includes the header."""
    if kind == "jsonl":
        return [jsonl({"prompt": prompt}) for prompt in prompts]
    lines = [f"{prompt}\n" for prompt in prompts]
    return ["prompt\n" + lines[0], *lines[1:]] if kind == "csv" else lines


class TestStream:
    """A pipe is read once, as it arrives."""

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("n_iter", [1, 2])
    def test_each_prompt_is_yielded_before_the_next_line_is_written(
        self, tmp_path: Path, kind: str, n_iter: int
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        arrived = threading.Event()
        waited: list[bool] = []

        def produce() -> None:
            first, second = rows(kind, "one", "two")
            with pipe.open("w") as file:
                file.write(first)
                file.flush()
                waited.append(arrived.wait(20))
                file.write(second)

        producer = threading.Thread(target=produce)
        producer.start()
        settings = Settings.of(from_file=str(pipe), prompt_format=kind, n_iter=n_iter)
        reading = Prompts(settings)
        assert reading.count() is None
        stream = iter(reading)
        assert next(stream).text == "one"
        arrived.set()
        assert [prompt.text for prompt in stream] == ["two", *["one", "two"] * (n_iter - 1)]
        producer.join()
        assert waited == [True], "the first prompt arrived before the second line was written"

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("n_iter", [1, 3])
    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch, kind: str, n_iter: int) -> None:
        end, start = os.pipe()
        os.write(start, "".join(rows(kind, "one", "一只猫")).encode())
        os.close(start)
        with os.fdopen(end) as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert texts("-", prompt_format=kind, n_iter=n_iter) == ["one", "一只猫"] * n_iter

    @pytest.mark.parametrize(
        ("data", "phrase"), [(b"", "standard input is empty"), (b"a\n\xff\n", "standard input, line 2")]
    )
    def test_an_invalid_stream_is_refused_as_it_arrives(
        self, monkeypatch: pytest.MonkeyPatch, data: bytes, phrase: str
    ) -> None:
        end, start = os.pipe()
        os.write(start, data)
        os.close(start)
        with os.fdopen(end) as file:
            monkeypatch.setattr(sys, "stdin", file)
            with pytest.raises(InputFileError, match=phrase):
                texts("-")

    def test_invalid_rows_of_a_stream_are_reported_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        end, start = os.pipe()
        os.write(start, b'{"prompt": "one"}\nnone\n{"prompt": "two"}\n')
        os.close(start)
        reported: list[str] = []
        with os.fdopen(end) as file:
            monkeypatch.setattr(sys, "stdin", file)
            settings = Settings.of(from_file="-", prompt_format="jsonl", n_iter=2)
            reading = Prompts(settings, on_invalid=lambda error: reported.append(error.what))
            assert [prompt.text for prompt in reading] == ["one", "two"] * 2
        assert reported == ["standard input, line 2: the line is not JSON"]


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_utf_16_with_a_byte_order_mark(self, write: Callable[..., str], encoding: str, end: str) -> None:
        # U+010A and U+0A0D contain the bytes of line ends.
        lines = ["ein Café", "", "\u010a\u0a0d 🐱", "a cat"]
        mark = "" if encoding == "utf-16" else "\ufeff"
        path = write((mark + end.join(lines) + end).encode(encoding))
        assert texts(path) == [line for line in lines if line]
        assert texts(path, n_iter=2) == [line for line in lines if line] * 2

    def test_tables_in_utf_16(self, write: Callable[..., str]) -> None:
        # "Unicode text" of Excel.
        path = write("prompt\tseed\r\na café\t7\r\n".encode("utf-16"), "p.tsv")
        assert [(one.text, one.seed) for one in prompts(path)] == [("a café", 7)]
        assert texts(write('["a café"]'.encode("utf-16"), "p.json")) == ["a café"]

    def test_utf_16_from_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        end, start = os.pipe()
        os.write(start, "one\r\n一只猫".encode("utf-16"))
        os.close(start)
        with os.fdopen(end) as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert texts("-", n_iter=2) == ["one", "一只猫"] * 2

    @pytest.mark.parametrize("data", [b"a \x93quoted\x94 cat\n", b"caf\xe9"])
    def test_the_advice_for_windows_text_works(self, write: Callable[..., str], data: bytes) -> None:
        path = write(data, "my prompts.txt")
        assert f"iconv -f CP1252 -t UTF-8 '{path}' > new.txt" in refused(path).fix
        assert data.decode("cp1252")

    def test_bytes_that_windows_does_not_have(self, write: Callable[..., str]) -> None:
        error = refused(write(b"\x81\x9d"))
        assert "iconv -f" not in error.fix
        assert "guesses its encoding" in error.fix


class TestHostileFiles:
    def test_a_file_that_changes_during_the_run(self, write: Callable[..., str]) -> None:
        path = write("one\ntwo\n")
        reading = Prompts(Settings.of(from_file=path, n_iter=2))
        assert reading.count() == 4
        with Path(path).open("a") as file:
            file.write("three\n")
        assert [one.text for one in reading] == ["one", "two"] * 2
        Path(path).write_text("another\n")
        assert [one.text for one in reading] == ["one", "two"] * 2

    def test_a_file_that_is_appended_to_while_it_is_read(self, write: Callable[..., str]) -> None:
        path = write("one\ntwo\n")
        found = []
        for one in Prompts(Settings.of(from_file=path, n_iter=1)):
            with Path(path).open("a") as file:
                file.write("more\n")
            found.append(one.text)
        assert found == ["one", "two"]

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/null"])
    def test_devices_are_refused(self, device: str) -> None:
        with pytest.raises(InputFileError, match=f"{device} is a device"):
            Prompts(Settings.of(from_file=device))

    @pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv", "p.json"])
    def test_a_line_that_does_not_end(self, write: Callable[..., str], name: str) -> None:
        path = write(b"a" * 10_000_002, name)
        assert refused(path).what == f"{path}, line 1: the line is longer than 10 MB"

    def test_an_endless_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Path("/dev/zero").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            with pytest.raises(InputFileError, match="the line is longer than 10 MB"):
                texts("-")

    @pytest.mark.parametrize("key", ["k{}", "prompt", "prompt{}"])
    def test_a_row_of_100_000_keys(self, write: Callable[..., str], key: str) -> None:
        row = "{" + ", ".join(f'"{key.format(number)}": 1' for number in range(100_000)) + "}"
        begin = time.process_time()
        refused(write(row, "p.jsonl"))
        assert time.process_time() - begin < 15


class TestNumbers:
    @pytest.mark.parametrize("name", [name for name, value in VALUES.items() if isinstance(value, (int, float))])
    def test_booleans_are_not_numbers(self, write: Callable[..., str], name: str) -> None:
        for value in (True, False):
            path = write(jsonl({"prompt": "a", name: value}), "p.jsonl")
            assert f"{str(value).lower()} is not valid" in refused(path).what
            with pytest.raises(UsageError, match=f"{str(value).lower()} is not valid"):
                Settings.of(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n_iter", int("9" * 400)), ("n_samples", 10**9), ("n_samples", int("9" * 4000)), ("height", 2**20),
            ("width", 2**20), ("images_per_prompt", 10**12), ("n_rows", 10**400), ("steps", 10**400),
            ("seed", 10**400), ("channels", 10**400),
        ],
    )  # fmt: skip
    def test_numbers_beyond_the_limits(self, name: str, value: int) -> None:
        with pytest.raises(UsageError, match="is out of range") as caught:
            Settings.of(**{name: value})
        assert len(str(caught.value)) < 200

    def test_too_many_images(self, write: Callable[..., str]) -> None:
        with pytest.raises(UsageError, match="more than 1,000,000,000 combinations"):
            Prompts(Settings.of(prompt="{a|b}" * 1100, matrix=True)).count()
        assert "combinations" in refused(write("{a|b}" * 1100), matrix=True).what
        with pytest.raises(UsageError, match="and the limit is"):
            Prompts(Settings.of(n_iter=10**9, n_samples=10)).count()


class TestJsonArray:
    def test_texts_and_objects(self, write: Callable[..., str]) -> None:
        path = write('[\n "one",\n {"prompt": "two", "seed": 7, "out": "x"},\n {"prompt": "three"}\n]', "p.json")
        found = prompts(path, steps=9)
        assert [(one.text, one.seed, one.out) for one in found] == [("one", None, None), ("two", 7, "x"),
                                                                    ("three", None, None)]  # fmt: skip
        assert {one.settings.steps for one in found} == {9}

    @pytest.mark.parametrize(
        ("text", "phrase"),
        [
            ('["one", 5]', "item 2: 5 is not a prompt or a JSON object"),
            ('["one", ["two"]]', 'item 2: ["two"] is not a prompt or a JSON object'),
            ('["one", {"promt": "two"}]', "item 2: an image has no setting promt"),
            ('["one", {"prompt": "two", "steps": 0}]', "item 2: --ddim_steps 0 is out of range"),
            ('["one"', "is not JSON"),
            ('{"prompt": "one"}\n{"prompt": "two"}', "is not JSON"),
            ('{"prompts": ["one"]}', "is not a JSON array"),
            ('"one"', "is not a JSON array"),
            ("[]", "is empty"),
            ("", "is empty"),
            ("[" * 100_000, "is not JSON"),
        ],
    )
    def test_invalid_arrays(self, write: Callable[..., str], text: str, phrase: str) -> None:
        path = write(text, "p.json")
        assert path in refused(path).what
        assert phrase in refused(path).what

    def test_json_lines_in_a_json_file(self, write: Callable[..., str]) -> None:
        assert "--prompt-format jsonl" in refused(write('{"prompt": "one"}\n{"prompt": "two"}', "p.json")).fix


class TestSeparators:
    def test_semicolons_as_excel_writes_them(self, write: Callable[..., str]) -> None:
        path = write('\ufeffprompt;seed;scale;out\r\na cat, asleep;7;7,5;\r\n"a; b";8;;x\r\n', "p.csv")
        found = prompts(path)
        assert [(one.text, one.seed, one.settings.scale, one.out) for one in found] == [
            ("a cat, asleep", 7, 7.5, None),
            ("a; b", 8, None, "x"),
        ]

    def test_the_line_that_names_the_separator(self, write: Callable[..., str]) -> None:
        path = write("sep=;\nprompt;seed\na;7\nb;x\n", "p.csv")
        assert refused(path).what.startswith(f"{path}, line 4: ")

    def test_tabs_in_a_csv_file(self, write: Callable[..., str]) -> None:
        assert texts(write("prompt\tseed\na, b\t7\n", "p.csv")) == ["a, b"]

    def test_names_of_columns_in_any_case(self, write: Callable[..., str]) -> None:
        (one,) = prompts(write("Prompt;Seed;W\na;7;128\n", "p.csv"))
        assert (one.text, one.seed, one.settings.width) == ("a", 7, 128)

    def test_foreign_columns_of_a_table_are_refused(self, write: Callable[..., str]) -> None:
        path = write("Prompt\tCategory\na cat\tAnimals\n", "p.tsv")
        assert refused(path).what == f"{path}, line 1, the header: an image has no setting Category"


class TestFlagsOfOtherTools:
    @pytest.mark.parametrize(
        ("format", "line", "text", "values"),
        [
            (
                "a1111",
                '--prompt "a cat" --negative_prompt "dog" --steps 30 --cfg_scale 7 --seed 42 --width 128 --height 64',
                "a cat",
                {"negative_prompt": "dog", "steps": 30, "scale": 7.0, "seed": 42, "width": 128, "height": 64},
            ),
            ("a1111", "a plain - cat", "a plain - cat", {}),
            ("a1111", "--prompt a big cat --steps 3", "a big cat", {"steps": 3}),
            ("a1111", '--seed -1 --sampler_name PLMS --prompt ""', "", {"sampler": "plms"}),
            ("a1111", '--prompt a --batch_size 2 --n_iter 3', "a", {"images_per_prompt": 6}),
            (
                "kohya",
                "a cat on a mat --n blurry, bad --w 128 --h 64 --d 1 --l 7.5 --s 28",
                "a cat on a mat",
                {"negative_prompt": "blurry, bad", "width": 128, "height": 64, "seed": 1, "scale": 7.5, "steps": 28},
            ),
            ("kohya", "a cat, semi-final -- x", "a cat, semi-final -- x", {}),
            (
                "invoke",
                '"a \\"big\\" cat [a dog]" -s 50 -S42 -C7.5 -W 128 -H=64 -A plms -n 2',
                'a "big" cat',
                {"steps": 50, "seed": 42, "scale": 7.5, "width": 128, "height": 64, "sampler": "plms",
                 "negative_prompt": "a dog", "images_per_prompt": 2},
            ),
            ("invoke", "a semi-final cat -s9 --cfg_scale=3", "a semi-final cat", {"steps": 9, "scale": 3.0}),
            ("invoke", "a cat", "a cat", {}),
        ],
    )  # fmt: skip
    def test_lines(
        self, write: Callable[..., str], format: str, line: str, text: str, values: dict[str, object]
    ) -> None:
        first, *_ = found = prompts(write(f"# a comment\n\n{line}\n"), prompt_format=format)
        assert first.text == text
        settings = first.settings.model_dump(include=set(names(row=True)))
        assert settings | values == settings
        assert first.seed == values.get("seed")
        assert len(found) == values.get("images_per_prompt", 1)

    @pytest.mark.parametrize(
        ("format", "line", "phrase"),
        [
            ("a1111", "--prompt a --styles x", "--styles of the web UI"),
            ("a1111", "--prompt a --restore_faces true", "--restore_faces of the web UI"),
            ("a1111", "--prompt a --steps", "--steps needs one value"),
            ("a1111", "--prompt a --steps 1 --steps 2", "--steps is given twice"),
            ("a1111", "a cat --steps 20", "a is before the first flag"),
            ("a1111", "--steps 20", "the row has no prompt"),
            ("a1111", "--prompt a --steps x", "--ddim_steps 'x' is not valid"),
            ("a1111", "--prompt a --sampler_name Restart", "--sampler 'Restart' is not valid"),
            ("kohya", "a --am 1", "--am of kohya"),
            ("kohya", "a --d 1,x", "--seed '1,x' is not valid"),
            ("kohya", "a --s", "--s has no value"),
            ("invoke", '"a" -I x.png', "-I of InvokeAI"),
            ("invoke", "a --hires_fix", "--hires_fix of InvokeAI"),
            ("invoke", '"a" b -s5', "b follows no flag"),
        ],
    )
    def test_what_sdcli_does_not_have_is_refused(
        self, write: Callable[..., str], format: str, line: str, phrase: str
    ) -> None:
        path = write(f"\n{line}\n")
        error = refused(path, prompt_format=format)
        assert error.what.startswith(f"{path}, line 2: ")
        assert phrase in error.what

    @pytest.mark.parametrize(
        ("line", "format"),
        [
            ('--prompt "a cat" --steps 3', "a1111"),
            ("a cat --n dog --w 128", "kohya"),
            ("a cat --s 28", "kohya"),
            ('"a cat" -s 50 -S42', "invoke"),
            ("a cat -W512 -H512", "invoke"),
        ],
    )
    @pytest.mark.parametrize("given", ["auto", "text"])
    def test_one_note_for_a_file_of_text_with_flags(
        self, write: Callable[..., str], line: str, format: str, given: str
    ) -> None:
        notes: list[str] = []
        path = write(f"a plain cat\n{line}\n{line}\n")
        settings = Settings.of(from_file=path, n_iter=2, prompt_format=given)
        reading = Prompts(settings, on_note=notes.append)
        reading.count()
        assert [one.text for one in reading] == ["a plain cat", line, line] * 2
        assert notes == [
            f"{path}, line 2: flags on the line are read as part of the prompt; --prompt-format {format} reads them as "
            "settings"
        ]

    @pytest.mark.parametrize(
        "line", ["an F-16 - in flight", "a -- b", "a cat -- detailed", "well-known x-ray", "1-2 cats", "a --dark cat"]
    )
    def test_no_note_for_ordinary_text(self, write: Callable[..., str], line: str) -> None:
        notes: list[str] = []
        assert list(Prompts(Settings.of(from_file=write(line), n_iter=1), on_note=notes.append))
        assert notes == []


class TestSkip:
    @pytest.mark.parametrize(
        ("name", "data", "lines", "valid"),
        [
            ("p.txt", b"one\n\xff\ntwo\n\0\n__none__\n", [2, 4, 5], ["one", "two"]),
            (
                "p.jsonl",
                b'{"prompt": "one"}\n\xff\nx\n{"prompt": "two", "seed": -2}\n[]\n{"prompt": "__none__"}\n'
                b'{"prompt": "three"}\n',
                [2, 3, 4, 5, 6],
                ["one", "three"],
            ),
            (
                "p.csv",
                b'prompt,seed\none,1\ntwo\nthree,x\n"four"x,4\n"fi\n\xffve",5\nsix,6\n"seven,7\n',
                [3, 4, 5, 7, 9],
                ["one", "six"],
            ),
        ],
    )
    def test_invalid_rows_are_reported_once_and_skipped(
        self, write: Callable[..., str], tmp_path: Path, name: str, data: bytes, lines: list[int], valid: list[str]
    ) -> None:
        reported: list[InputFileError] = []
        path = write(data, name)
        settings = Settings.of(from_file=path, n_iter=3, wildcards=str(tmp_path))
        reading = Prompts(settings, on_invalid=reported.append)
        assert reading.count() == 3 * len(valid)
        found = list(reading)
        assert [prompt.text for prompt in found] == valid * 3
        assert [prompt.index for prompt in found] == list(range(3 * len(valid)))
        assert [error.what.split(":")[0] for error in reported] == [f"{path}, line {number}" for number in lines]

    @pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv"])
    def test_a_file_without_a_valid_row_ends_the_run_with_the_first_error(
        self, write: Callable[..., str], name: str
    ) -> None:
        first = "prompt,seed\n" if name == "p.csv" else ""
        path = write(first.encode() + b"\xff\n\xfe,2\n", name)
        with pytest.raises(InputFileError) as caught:
            Prompts(Settings.of(from_file=path), on_invalid=lambda error: None).count()
        assert "is empty" not in str(caught.value)
        assert f"line {2 if first else 1}: the line is not UTF-8" in str(caught.value)

    def test_an_invalid_header_ends_the_run(self, write: Callable[..., str]) -> None:
        reported: list[InputFileError] = []
        with pytest.raises(InputFileError, match="the header"):
            Prompts(Settings.of(from_file=write("promt\na\n", "p.csv")), on_invalid=reported.append).count()
        assert reported == []


class TestSeeds:
    def test_a_row_s_seed_counts_up_over_its_images_and_passes(self, write: Callable[..., str]) -> None:
        path = write(jsonl({"prompt": "a", "seed": 7, "images_per_prompt": 3}, {"prompt": "b"}), "p.jsonl")
        found = prompts(path, n_iter=2)
        assert [one.seed for one in found] == [7, 8, 9, None, 10, 11, 12, None]

    def test_matrix_counts_up_too(self, write: Callable[..., str]) -> None:
        path = write(jsonl({"prompt": "{a|b}", "seed": 7}), "p.jsonl")
        found = prompts(path, n_iter=2, matrix=True, images_per_prompt=2)
        assert [(one.text, one.seed) for one in found] == list(zip("aabbaabb", range(7, 15), strict=True))

    def test_seeds_wrap_around(self, write: Callable[..., str]) -> None:
        last = 2**64 - 1
        path = write(jsonl({"prompt": "a", "seed": last, "images_per_prompt": 2}), "p.jsonl")
        assert [one.seed for one in prompts(path, n_iter=2)] == [last, 0, 1, 2]
        assert [one.seed for one in prompts(seed_mode="image", seed=last, n_samples=3, n_iter=1)] == [last, 0, 1]

    def test_image_mode_numbers_the_seeds_and_keeps_those_of_rows(self, write: Callable[..., str]) -> None:
        path = write(jsonl({"prompt": "a"}, {"prompt": "b", "seed": 5}, {"prompt": "c"}), "p.jsonl")
        assert [one.seed for one in prompts(path, seed=100, seed_mode="image", n_iter=2)] == [100, 5, 102, 103, 6, 105]

    @given(seed=st.integers(0, 2**64 - 1), each=st.integers(1, 5), n_iter=st.integers(1, 4), choices=st.integers(1, 3))
    def test_the_images_of_a_row_have_different_seeds(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, each: int, n_iter: int, choices: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "seeds.jsonl"
        template = "{" + "|".join("abc"[:choices]) + "}" if choices > 1 else "a"
        path.write_text(jsonl({"prompt": template, "seed": seed, "images_per_prompt": each}))
        for matrix in (False, True):
            found = prompts(str(path), n_iter=n_iter, matrix=matrix)
            count = n_iter * each * (choices if matrix else 1)
            assert [one.seed for one in found] == [(seed + place) % 2**64 for place in range(count)]


PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0{}_\\"), min_size=1, max_size=8)
TEXTS = st.one_of(PLAIN, st.sampled_from(["{a|b}", "{a|b|{c|d}} x {e|f}", "# no", "{", "a\nb", " "]))


@given(
    lines=st.lists(st.tuples(TEXTS, st.none() | st.integers(1, 3)), min_size=1, max_size=6),
    kind=st.sampled_from(FORMATS),
    invalid=st.booleans(),
    n_iter=st.integers(1, 3),
    n_samples=st.integers(1, 4),
    each=st.none() | st.integers(1, 3),
    matrix=st.booleans(),
)
def test_count_is_the_number_of_prompts(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[str, int | None]],
    kind: str,
    invalid: bool,
    n_iter: int,
    n_samples: int,
    each: int | None,
    matrix: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"count-{kind}"
    if kind == "text":
        path.write_bytes("\n".join(text for text, _ in lines).encode() + b"\nthe end")
    else:
        values = [{"prompt": text, "images_per_prompt": own} for text, own in [*lines, ("the end", None)]]
        path.write_bytes((jsonl(*values) if kind == "jsonl" else as_csv(*values)).encode())
    if invalid:
        with path.open("ab") as file:
            file.write(b"\n\xff\n")
    settings = {"from_file": str(path), "prompt_format": kind, "n_iter": n_iter, "n_samples": n_samples}
    reading = Prompts(
        Settings.of(**settings, images_per_prompt=each, matrix=matrix),
        on_invalid=(lambda error: None) if invalid else None,
    )
    counted = reading.count()
    found = list(reading)
    assert counted == len(found) > 0
    assert [one.index for one in found] == list(range(len(found)))
    passes = [one.iteration for one in found]
    assert passes == sorted(passes)
    assert [passes.count(number) for number in range(n_iter)] == [len(found) // n_iter] * n_iter


@pytest.mark.parametrize(
    ("kind", "count"),
    [("text", 20_000), ("jsonl", 3_000), ("csv", 3_000), pytest.param("text", 60_000, marks=pytest.mark.slow)],
)
def test_a_long_file_is_not_kept_in_memory(tmp_path: Path, kind: str, count: int) -> None:
    path = tmp_path / "long"
    path.write_text("".join(rows(kind, *(f"a cat with number {number}" for number in range(count)))))
    reading = Prompts(Settings.of(from_file=str(path), prompt_format=kind, n_iter=1))
    # Allocates what is allocated once, such as the buffer of the file.
    assert next(iter(reading)).index == 0
    tracemalloc.start()
    try:
        assert sum(1 for _ in reading) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000, "the texts alone take more"


@pytest.mark.parametrize(("format", "flag"), [("a1111", "--prompt "), ("invoke", ""), ("kohya", "")])
def test_a_line_of_many_words_takes_time_in_proportion_to_them(tmp_path: Path, format: str, flag: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(flag + "a " * 200_000)
    started = time.process_time()
    (prompt, *_) = Prompts(Settings.of(from_file=str(file), prompt_format=format))
    assert prompt.text == " ".join(["a"] * 200_000)
    assert time.process_time() - started < 5
