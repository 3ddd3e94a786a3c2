"""File names from patterns and from rows of prompt files. No name leaves the output folder."""

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import Job
from sdcli.outputs.names import check_pattern, fields, name_of, require_name, require_portable, slug
from tests.jobs import job as make_job


def job(**changes: object) -> Job:
    return make_job(**{"prompt": "A cat, asleep", "model": "CompVis/v1-4", "model_hash": "0a"} | changes)


class TestSlug:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("A Cat, asleep!", "a-cat-asleep"),
            ("  ../..\\x ", "x"),
            ("snake_case and-dash", "snake-case-and-dash"),
            ("Füchse im Café", "füchse-im-café"),
            ("e\u0301te\u0301", "été"),
            ("一只猫\uff0c在睡觉", "一只猫-在睡觉"),
            ("Кот и пёс", "кот-и-пёс"),
            ("हिन्दी में बिल्ली", "हिन्दी-में-बिल्ली"),
            ("แมวสีดำ", unicodedata.normalize("NFKC", "แมวสีดำ")),
            ("קָטָן", "קָטָן"),
            ("\uff26\uff35\uff2c\uff2c ①", "full-1"),
            ("🐱 ❤️ cat", "cat"),
            ("🐱❤️", "picture"),
            ("", "picture"),
            ("\u0301 \ufe0f", "picture"),
            ("a\0b\nc", "a-b-c"),
        ],
    )
    def test_letters_and_digits_of_any_script_are_kept(self, text: str, expected: str) -> None:
        assert slug(text) == expected

    def test_whole_words_up_to_60_characters(self) -> None:
        assert slug("word " * 40) == "-".join(["word"] * 12)
        assert len(slug("word " * 40)) == 59
        assert slug("a" * 60 + " b") == "a" * 60
        assert slug("a" * 59 + " b") == "a" * 59
        assert slug("a" * 58 + " b c") == "a" * 58 + "-b"
        assert slug("a" * 100) == "a" * 60

    def test_at_most_120_bytes(self) -> None:
        assert slug("猫" * 60) == "猫" * 40
        assert slug("猫" * 39 + " " + "猫" * 9) == "猫" * 39
        assert slug("猫 " * 60) == "-".join("猫" * 30)

    @given(st.text())
    def test_any_text_gives_a_name(self, text: str) -> None:
        name = slug(text)
        assert 0 < len(name) <= 60
        assert len(name.encode()) <= 120
        assert name[0].isalnum()
        assert name[-1] != "-"
        assert not set(name) & set('/\\. _:*?"<>|\n\0')
        assert require_name(name, "png", "it") == f"{name}.png"


class TestPattern:
    @pytest.mark.parametrize(
        ("pattern", "name"),
        [
            ("{index}", "3.png"),
            ("{index:05}-{seed}-{prompt:slug}.png", "00003-7-a-cat-asleep.png"),
            ("{prompt}", "A cat, asleep.png"),
            ("{negative_prompt}", "picture.png"),
            ("{prompt:.3}", "A c.png"),
            ("{scale}x{scale:g}x{scale:05.2f}", "7.5x7.5x07.50.png"),
            ("{width}x{height}/{sampler}-{steps}", "128x64/plms-20.png"),
            ("{model}/{model_hash}", "CompVis-v1-4/0a.png"),
            ("{model:slug}", "compvis-v1-4.png"),
            ("{{{index}}}", "{3}.png"),
            ("v1.5-{index}", "v1.5-3.png"),
            ("{index}.PNG", "3.PNG"),
            ("always the same", "always the same.png"),
            ("{eta:slug}", "0-0.png"),
        ],
    )
    def test_fields_and_their_formats(self, pattern: str, name: str) -> None:
        check_pattern(pattern, "png")
        assert name_of(job(), pattern, "png") == name

    def test_every_field(self) -> None:
        assert set(fields()) == Job.model_fields.keys() - {"noise", "out", "read_as", "files", "lora_hashes"}
        for field in fields():
            check_pattern(f"{{{field}}}", "png")
            assert name_of(job(), f"{{{field}}}", "png")

    def test_the_suffix_is_that_of_the_format(self) -> None:
        assert name_of(job(), "{index}", "jpeg") == "3.jpg"
        assert name_of(job(), "{index}.jpeg", "jpeg") == "3.jpeg"
        assert name_of(job(), "{index}", "webp") == "3.webp"

    @pytest.mark.parametrize(
        ("pattern", "phrase"),
        [
            ("{promt}", "{promt}"),
            ("{out}", "{out}"),
            ("{}", "--output-name"),
            ("{0}", "{0}"),
            ("{prompt.__class__}", "{prompt.__class__}"),
            ("{prompt[0]}", "{prompt[0]}"),
            ("{prompt:{prompt.__class__}}", "{prompt.__class__}"),
            ("{prompt!r}", "!r"),
            ("{prompt!s:slug}", "!s"),
            ("{prompt", "is not a valid pattern"),
            ("prompt}", "is not a valid pattern"),
            ("{prompt:d}", "is not a valid pattern"),
            ("{index:slugs}", "is not a valid pattern"),
            ("{index:.2}", "is not a valid pattern"),
            ("{index}.jpg", "contradicts --format png"),
            ("../{index}", "leave the output folder"),
            ("a/../../{index}", "leave the output folder"),
            ("/tmp/{index}", "leave the output folder"),
            ("C:{index}", "leave the output folder"),
            ("c:/{index}", "leave the output folder"),
            (".{index}", "is not a valid file name"),
            ("a/.hidden/{index}", "is not a valid file name"),
            ("{index}/", "is not a valid file name"),
            ("", "is not a valid file name"),
            ("a\\{index}", "is not a valid file name"),
            ("one:{index}", "is not a valid file name"),
            ("{index}?", "is not a valid file name"),
            ("a\n{index}", "is not a valid file name"),
            ("{index:0999999999}", "width"),
            ("{scale:.201f}", "width"),
            ("con/{index}", "is not a valid file name"),
            ("a./{index}", "is not a valid file name"),
            ("a /{index}", "is not a valid file name"),
            ("a.png/{index}", "is not a valid file name"),
            ("{index}\x9b", "is not a valid file name"),
            ("{index}\ud800", "is not a valid file name"),
            ("a" * 300, "is longer"),
            ("a" * 300 + "/{index}", "is longer"),
        ],
    )
    def test_an_invalid_pattern_is_refused(self, pattern: str, phrase: str) -> None:
        with pytest.raises(UsageError) as caught:
            check_pattern(pattern, "png")
        assert phrase in caught.value.what
        assert caught.value.exit_code == 2

    def test_numbers_that_are_not_characters(self) -> None:
        """The example of `check_pattern` has the seed 42, which is a character."""
        with pytest.raises(UsageError):
            name_of(job(seed=2**64 - 1), "{seed:c}", "png")

    def test_the_name_of_a_row_overrides_the_pattern(self) -> None:
        assert name_of(job(out="cats/one"), "{index}", "png") == "cats/one.png"
        assert name_of(job(out="cats/one.png"), None, "png") == "cats/one.png"
        assert name_of(job(out="{index}"), None, "png") == "{index}.png"
        assert name_of(job(), None, "png") is None

    @pytest.mark.parametrize("prompt", ["a photo.jpg", "a.webp", "x.png", ".png", "a.b.jpeg", "cat.gif"])
    def test_the_end_of_a_prompt_is_not_a_suffix(self, prompt: str) -> None:
        name = name_of(job(prompt=prompt), "{prompt}", "png")
        assert name is not None
        assert name.endswith(".png")
        assert name_of(job(prompt=prompt), "{prompt}.png", "png") in (name, f"{prompt.lstrip('.')}.png")
        jpeg = name_of(job(prompt=prompt), "{prompt}", "jpeg")
        assert jpeg is not None
        assert jpeg.lower().endswith((".jpg", ".jpeg"))


PATTERNS = (
    "{prompt}",
    "{prompt:slug}",
    "{index:05}-{prompt:slug}-{prompt}",
    "{prompt}/{prompt}",
    "{prompt}{prompt}{prompt}.png",
    "{negative_prompt}.{prompt}",
    "x{prompt} {negative_prompt:slug}",
    "{model}/{prompt:.5}",
    "{prompt:>70}",
)
HARD = st.text(st.sampled_from("ab./\\ -:.jpg.png猫🐱\0\n\u0301\u202e~|\x7f\x85"), max_size=300)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(prompt=st.text() | HARD, negative_prompt=st.text() | HARD)
@example(prompt="..", negative_prompt="...")
@example(prompt="a." + "b" * 200, negative_prompt="c" * 200)
@example(prompt="猫" * 500, negative_prompt="x.jpg")
@example(prompt=".." + "/.." * 50, negative_prompt="C:\\")
@example(prompt="", negative_prompt="/")
def test_any_prompt_gives_a_name_in_the_folder(pattern: str, prompt: str, negative_prompt: str) -> None:
    check_pattern(pattern, "png")
    name = name_of(job(prompt=prompt, negative_prompt=negative_prompt), pattern, "png")
    assert name is not None
    assert require_name(name, "png", "it") == name
    path = PurePosixPath(name)
    assert not path.is_absolute()
    assert len(path.parts) == pattern.count("/") + 1, "only the pattern creates folders"
    for part in path.parts:
        assert part not in (".", "..")
        assert not part.startswith(".")
        # A number may be appended.
        assert len(part.encode()) <= 255 - len("-1000")
        assert not set(part) & set('/\\:*?"<>|\0\n\x7f')
    assert path.suffix == ".png"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("one", "one.png"), ("one.png", "one.png"), ("cats/one", "cats/one.png"), ("a.b", "a.b.png"),
        ("one.gif", "one.gif.png"), ("Füchse/一只猫 🐱", "Füchse/一只猫 🐱.png"), ("..a", None), ("a..", "a...png"),
        ("-rf", "-rf.png"), ("~", "~.png"), ("a" * 196, "a" * 196 + ".png"), ("a" * 197, None), ("猫" * 66, None),
        ("one.jpg", None), ("", None), (".", None), ("..", None), ("/", None), ("a/", None), ("/a", None),
        ("a/../b", None), ("../a", None), ("C:a", None), ("C:\\a", None), ("\\\\host\\a", None), (".a", None),
        ("a/.b", None), ("a\0b", None), ("a\tb", None), ("a*", None), (".png", None), ("x/" + "b" * 300 + "/y", None),
    ],
)  # fmt: skip
def test_names_of_rows(name: str, full: str | None) -> None:
    if full is not None:
        assert require_name(name, "png", "out") == full
        return
    with pytest.raises(UsageError, match=r"^out ") as caught:
        require_name(name, "png", "out")
    assert caught.value.exit_code == 2


@given(name=HARD | st.text())
def test_a_valid_name_is_in_the_folder(name: str) -> None:
    try:
        full = require_name(name, "png", "out")
    except UsageError:
        return
    folder = PurePosixPath("/somewhere/samples")
    path = folder / full
    assert path.is_relative_to(folder)
    assert path != folder
    assert ".." not in path.parts
    assert all(len(part.encode()) <= 250 for part in path.parts)
    assert path.name.lower().endswith(".png")


@pytest.mark.parametrize(
    "name",
    ["con", "NUL.png", "aux/one", "COM1", "lpt9.x", "a./b", "x /y", "a ", "a.", "x.gif", "a.png/b", "A.JPG/b",
     "a\x9bm", "a\u202eb", "a/" * 1600 + "b"],
)  # fmt: skip
def test_names_that_a_system_changes_or_rejects(name: str) -> None:
    with pytest.raises(UsageError, match=r"^out ") as caught:
        require_portable(name, "png", "out")
    assert len(caught.value.what) < 200


@pytest.mark.parametrize(
    "name", ["one", "one.png", "cats/one", "a.b", "console", "com", "com10", "v1.5/a", " a", "a b"]
)
def test_portable_names(name: str) -> None:
    assert require_portable(name, "png", "out") == (name if name.endswith(".png") else f"{name}.png")


def test_a_pattern_with_many_folders_gives_a_path_that_fits() -> None:
    name = name_of(job(prompt="word " * 100), "{prompt}/" * 40 + "{index}", "png")
    assert name is not None
    assert len(name) <= 3000
