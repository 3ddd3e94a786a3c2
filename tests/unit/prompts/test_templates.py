"""Templates of prompts: alternatives and wildcards, how one of them is chosen, and which ones are refused."""

import re
import time
from itertools import islice, product
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sdcli.errors import InputFileError
from sdcli.prompts.templates import DEPTH, Template, Wildcards

FILES = {
    "a": "x\ny\n",
    "one": "only\n",
    "animals/cats": "\ufefftabby\r\n\r\n  # none of these\r\n {big|small} lion \r\n",
    "size-2_big": "# sizes\n__a__ and __a__\n{__a__|}\n",
    "Tiere": "Füchse\n",
    "signs": "a|b}\n\\{c|d\\}\n",
    "same": "z\nz\n",
    "my colors": "blue\nred\n",
    "v1.5": "new\n",
    "lists/colors-dark": "navy\n",
    "lists/colors-light": "cream\n{0.5::white|ivory}\n",
    "lists/more/colors": "grey\n",
    "rock & roll (old)": "elvis\n",
    "weighted": "2::often\nseldom\n0::never\n",
}


def write(folder: Path, files: dict[str, str]) -> Wildcards:
    for name, text in files.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return Wildcards(folder)


@pytest.fixture(scope="module")
def wildcards(tmp_path_factory: pytest.TempPathFactory) -> Wildcards:
    return write(tmp_path_factory.mktemp("lists"), FILES)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        # Alternatives.
        ("a {red|blue} cat", ["a red cat", "a blue cat"]),
        ("{a|b}{c|d}", ["ac", "ad", "bc", "bd"]),
        ("{a {red|blue} cat|a dog}", ["a red cat", "a blue cat", "a dog"]),
        ("{a|{b|{c|d}}} {e|f}", ["a e", "a f", "b e", "b f", "c e", "c f", "d e", "d f"]),
        ("a {big|} cat", ["a big cat", "a  cat"]),
        ("{|}", ["", ""]),
        ("{ a | b }", [" a ", " b "]),
        ("{a|a}", ["a", "a"]),
        # Braces and bars that are ordinary characters.
        ("", [""]),
        ("a|b", ["a|b"]),
        ("{curly}", ["{curly}"]),
        ("{}", ["{}"]),
        ("{curly {a|b}}", ["{curly a}", "{curly b}"]),
        ("{{a|b}}", ["{a}", "{b}"]),
        ("{{a}|b}", ["{a}", "b"]),
        ("{a|b", ["{a|b"]),
        ("a|b}", ["a|b}"]),
        ("}{", ["}{"]),
        ("{a|b {c|d}", ["{a|b c", "{a|b d"]),
        ("{a|b} {c|d", ["a {c|d", "b {c|d"]),
        ("{a|b}}|", ["a}|", "b}|"]),
        ("{a|{b}", ["{a|{b}"]),
        # Backslashes.
        (r"\{a|b}", ["{a|b}"]),
        (r"{a\|b|c}", ["a|b", "c"]),
        (r"{a|b\}}", ["a", "b}"]),
        (r"{a|b\}", ["{a|b}"]),
        (r"\__a__ \_", ["__a__ _"]),
        (r"__a\__", ["__a__"]),
        (r"\a \\ C:\cats\ {\n|b}", [r"\a \\ C:\cats\ \n", r"\a \\ C:\cats\ b"]),
        (r"\\{a|b}", [r"\{a|b}"]),
        # Wildcards.
        ("__a__", ["x", "y"]),
        ("a __a__ b", ["a x b", "a y b"]),
        ("__a____a__", ["xx", "xy", "yx", "yy"]),
        ("__a__a__", ["xa__", "ya__"]),
        ("___a___", ["_x_", "_y_"]),
        ("{__a__|b} {c|d}", ["x c", "x d", "y c", "y d", "b c", "b d"]),
        ("__{a|b}__", ["__a__", "__b__"]),
        ("__animals/cats__", ["tabby", "big lion", "small lion"]),
        ("__size-2_big__", ["x and x", "x and y", "y and x", "y and y", "x", "y", ""]),
        ("__Tiere__", ["Füchse"]),
        ("{__signs__|e}", ["a|b}", "{c|d}", "e"]),
        ("__same__", ["z", "z"]),
        # Not names.
        ("__", ["__"]),
        ("______", ["______"]),
        ("__a", ["__a"]),
        ("_a_", ["_a_"]),
        ("is a __ cat and __ dog", ["is a __ cat and __ dog"]),
        ("__a\nb__", ["__a\nb__"]),
        ("__a\0b__", ["__a\0b__"]),
        # Names of real lists.
        ("a __my colors__ cat", ["a blue cat", "a red cat"]),
        ("__v1.5__", ["new"]),
        ("__rock & roll (old)__", ["elvis"]),
        ("__lists/colors*__", ["navy", "cream", "white", "ivory"]),
        ("__lists/*-dark__", ["navy"]),
        ("__lists/*__", ["navy", "cream", "white", "ivory"]),
        ("__lists/**__", ["navy", "cream", "white", "ivory", "grey"]),
        ("__**/colors__", ["grey"]),
        ("__*.5__", ["new"]),
        # Weights.
        ("{0.5::red|2::blue} car", ["red car", "blue car"]),
        ("{red|.25:: blue|0::green}", ["red", " blue"]),
        ("{2::}", [""]),
        ("{ 3::a}", ["a"]),
        ("{1::{2::a|b}|__weighted__}", ["a", "b", "often", "seldom"]),
        ("{a::b|c}", ["a::b", "c"]),
        ("2::a", ["2::a"]),
        # Bars in square brackets.
        ("a {blond | [black | grey]} cat", ["a blond  cat", "a  [black | grey] cat"]),
        ("{[a|b]}", ["{[a|b]}"]),
        ("{[a|b}", ["[a", "b"]),
        ("{a]|[b}", ["a]", "[b"]),
        ("{[{a|b}|c]|d}", ["[a|c]", "[b|c]", "d"]),
        ("{a|[b|[c|d]]}", ["a", "[b|[c|d]]"]),
        ("{[{a|b]}|c}", ["[a", "[b]", "c"]),
        ("[a|b] {c|d}", ["[a|b] c", "[a|b] d"]),
    ],
)
def test_the_prompts_of_a_template(wildcards: Wildcards, text: str, prompts: list[str]) -> None:
    template = Template.parse(text, wildcards)
    assert list(template.all()) == prompts
    assert template.combinations == len(prompts)
    assert {template.choose(1, index) for index in range(100)} == set(prompts)


Case = tuple[str, list[str]]
"""A template, and its prompts as the test computes them."""


def one_of(cases: list[Case]) -> Case:
    return "{" + "|".join(text for text, _ in cases) + "}", [prompt for _, prompts in cases for prompt in prompts]


def one_after_another(cases: list[Case]) -> Case:
    prompts = [prompts for _, prompts in cases]
    return "".join(text for text, _ in cases), ["".join(parts) for parts in product(*prompts)]


def in_braces(case: Case) -> Case:
    return f"{{{case[0]}}}", [f"{{{prompt}}}" for prompt in case[1]]


TEXTS = st.sampled_from(["", "cat", " a ", "-"]).map(lambda text: (text, [text]))
ESCAPES = st.sampled_from("{|}_").map(lambda character: (f"\\{character}", [character]))
LISTS = st.sampled_from([("__a__", ["x", "y"]), ("__one__", ["only"])])
CASES = st.recursive(
    TEXTS | ESCAPES | LISTS,
    lambda cases: (
        st.lists(cases, min_size=2, max_size=3).map(one_of)
        | st.lists(cases, max_size=3).map(one_after_another)
        | cases.map(in_braces)
    ),
    max_leaves=8,
)


@given(case=CASES, seed=st.integers(), index=st.integers(min_value=0))
def test_all_yields_the_product_of_all_choices(wildcards: Wildcards, case: Case, seed: int, index: int) -> None:
    text, prompts = case
    template = Template.parse(text, wildcards)
    assert list(template.all()) == prompts
    assert template.combinations == len(prompts)
    assert template.choose(seed, index) in prompts


@given(
    pieces=st.lists(
        st.sampled_from(["{", "|", "}", "\\", "_", " ", "!\n", "[\n", "]\n", "__a__", "__one__"]), max_size=16
    )
)
def test_no_character_makes_a_text_invalid(wildcards: Wildcards, pieces: list[str]) -> None:
    template = Template.parse("".join(pieces), wildcards)
    assume(template.combinations <= 2000)
    prompts = list(template.all())
    assert len(prompts) == template.combinations
    assert all(template.choose(0, index) in prompts for index in range(10))


@given(text=st.text().filter(lambda text: not re.search(r"[{\\]|__", text)))
def test_text_without_choices_is_unchanged(wildcards: Wildcards, text: str) -> None:
    template = Template.parse(text, wildcards)
    assert [template.choose(0, 0), *template.all()] == [text, text]


@given(text=st.text(st.sampled_from("{|}_\\a ") | st.characters()))
def test_backslashes_keep_any_text(wildcards: Wildcards, text: str) -> None:
    assert list(Template.parse(re.sub(r"[{|}_]", r"\\\g<0>", text), wildcards).all()) == [text]


# By `printf '42 0 0' | sha256sum` and so on: the choices are the same on any machine.
@pytest.mark.parametrize(
    ("seed", "index", "text", "prompt"),
    [
        # 2c3e30c83dbbcec9 % 3 == 1, e1d711d007b522fa % 3 == 0, d714125397e8d75d % 2 == 1
        (42, 0, "{a|b|c} {d|e|f} __a__", "b d y"),
        # 0dbcd6e41393eb7d % 3 == 2, 83d075599d0b9441 % 3 == 2, ae4b63cabe616928 % 2 == 0
        (42, 1, "{a|b|c} {d|e|f} __a__", "c f x"),
        # A list of one line is a choice like any other.
        (42, 1, "__one__ {d|e|f} __a__", "only f x"),
        # The choices in the first alternative are not made, because the second is chosen: 2a5ad87d9f795e6e % 2 == 0.
        (42, 2, "{ {a|b|c}{a|b|c}|-}{d|e}", "-d"),
        # The line of the wildcard, then the choices in it, then those after it: % 2 == 1, % 2 == 0,
        # 544018834a49f24a % 2 == 0, a5de5eaf562f2cab % 3 == 2.
        (42, 2, "__size-2_big__ {d|e|f}", "x f"),
        # 820a057cd27a42ca % 7 == 3
        (-3, 1_000_000, "{0|1|2|3|4|5|6}", "3"),
    ],
)
def test_choices_are_the_same_everywhere(wildcards: Wildcards, seed: int, index: int, text: str, prompt: str) -> None:
    assert Template.parse(text, wildcards).choose(seed, index) == prompt


def test_every_option_is_chosen_about_equally_often(wildcards: Wildcards) -> None:
    template = Template.parse("{0|1|2|3|4|5|6}{0|1|2}", wildcards)
    chosen = [template.choose(7, index) for index in range(2100)]
    assert {prompt: chosen.count(prompt) for prompt in template.all()} == {
        prompt: pytest.approx(100, abs=40) for prompt in template.all()
    }
    assert chosen != [template.choose(8, index) for index in range(2100)]


def test_weights_decide_how_often_an_option_is_chosen(wildcards: Wildcards) -> None:
    for text in ("{3::a|b|0::c}", "{1.5::a|.5::b}", "{0.75::a|0.25::b}"):
        template = Template.parse(text, wildcards)
        chosen = [template.choose(7, index) for index in range(2000)]
        assert chosen.count("a") == pytest.approx(1500, abs=100), text
        assert set(chosen) == {"a", "b"}
    often = [Template.parse("__weighted__", wildcards).choose(7, index) for index in range(900)].count("often")
    assert often == pytest.approx(600, abs=60)


def test_files_of_a_pattern_keep_their_weights(tmp_path: Path) -> None:
    wildcards = write(tmp_path, {"x1": "0.25::a\n.75::b", "x2": "2::c"})
    chosen = [Template.parse("__x*__", wildcards).choose(7, index) for index in range(1200)]
    assert [chosen.count(name) for name in "abc"] == [pytest.approx(n, abs=60) for n in (100, 300, 800)]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{2$$a|b}", "choices of several alternatives are not supported"),
        ("{2$$ and $$a|b|c}", "choices of several alternatives are not supported"),
        ("{1-2$$__a__}", "choices of several alternatives are not supported"),
        ("{$$a|b}", "choices of several alternatives are not supported"),
        ("{0::a|0.0::b}", "every weight is 0 in {0::a|0.0::b}"),
        ("{" + "9" * 5000 + "::a|b}", "weight 9"),
        ("{0.1234567::a|b}", "weight 0.1234567 is not valid"),
        ("__none such__", "wildcard __none such__ has no file"),
        ("__lists__", "wildcard __lists__ has no file"),
        ("__nothing*__", "wildcard __nothing*__ matches no file"),
        ("__../a__", "would leave the folder"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(wildcards: Wildcards, text: str, phrase: str) -> None:
    with pytest.raises(InputFileError, match=re.escape(phrase)) as caught:
        Template.parse(text, wildcards)
    assert caught.value.fix


def test_a_list_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("füchse\r\nx\r\n".encode("utf-16"))
    assert Wildcards(tmp_path).lines("a") == ("füchse", "x")


def test_a_pattern_that_contains_itself(tmp_path: Path) -> None:
    wildcards = write(tmp_path, {"x1": "__x*__"})
    with pytest.raises(InputFileError, match="contains itself: x1 -> x1"):
        Template.parse("__x1__", wildcards)


def test_combinations_are_streamed(wildcards: Wildcards) -> None:
    template = Template.parse("{0|1|2|3|4|5|6|7|8|9}" * 2000, wildcards)
    assert template.combinations == 10**2000
    assert [prompt[-2:] for prompt in islice(template.all(), 9, 12)] == ["09", "10", "11"]
    assert len(template.choose(0, 0)) == 2000


def test_more_combinations_than_a_limit(wildcards: Wildcards) -> None:
    assert Template.parse("{a|b}" * 20_000, wildcards).has_more_than(10**9)
    assert Template.parse("{a|b}" * 10, wildcards).has_more_than(1023)
    assert not Template.parse("x{a|b}" * 10, wildcards).has_more_than(1024)


def test_text_without_choices_is_fast(wildcards: Wildcards) -> None:
    text = "a photograph of a cat, highly detailed " * 10
    begin = time.process_time()
    for index in range(20_000):
        assert Template.parse(text, wildcards).choose(0, index) is text
    assert time.process_time() - begin < 4


def test_a_file_is_read_once_and_only_if_a_prompt_names_it(tmp_path: Path) -> None:
    wildcards = write(tmp_path, {"a": "{x|y}\n", "broken": ""})
    assert wildcards.lines("a") == ("{x|y}",)
    (tmp_path / "a.txt").unlink()
    assert wildcards.lines("a") == ("{x|y}",)
    assert [list(Template.parse("__a__", wildcards).all()) for _ in range(2)] == [["x", "y"], ["x", "y"]]


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        (b"", "empty"),
        (b"\n # none\n\t\n", "empty"),
        (b"ok\ncaf\xe9\n", "not UTF-8"),
        (b"\xef\xbb\xbfok\ncaf\xe9\n", "not UTF-8"),
        (b"a\0", "binary"),
        ("a".encode("utf-16-le"), "binary"),
        ("a".encode("utf-16")[:3], "not UTF-16"),
    ],
)
def test_an_invalid_list_is_refused(tmp_path: Path, data: bytes, phrase: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputFileError, match=phrase) as caught:
        Template.parse("{a|__a__}", Wildcards(tmp_path))
    assert str(tmp_path / "a.txt") in caught.value.what
    assert caught.value.fix or phrase == "not UTF-16"
    assert caught.value.exit_code == 3
    if phrase == "not UTF-8":
        assert f"iconv -f CP1252 -t UTF-8 {tmp_path / 'a.txt'}" in caught.value.fix
        assert caught.value.why == "Line 2 contains the byte 0xe9."


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("animal/cats", "Did you mean __animals/cats__?"),
        ("cats", "Did you mean __animals/cats__?"),
        ("tiere", "Did you mean __Tiere__?"),
        ("nothing-alike", ""),
        ("a/b", ""),
    ],
)
def test_the_error_for_a_missing_list_names_the_nearest(wildcards: Wildcards, name: str, why: str) -> None:
    with pytest.raises(InputFileError) as caught:
        Template.parse(f"a __{name}__", wildcards)
    assert caught.value.what == f"wildcard __{name}__ has no file {wildcards.folder / name}.txt"
    assert caught.value.why == why
    assert "--wildcards FOLDER" in caught.value.fix


def test_only_valid_names_are_suggested(tmp_path: Path) -> None:
    wildcards = write(tmp_path, {"hair__colour": "a", "hair_colour": "a"})
    with pytest.raises(InputFileError) as caught:
        wildcards.lines("hair-colour")
    assert caught.value.why == "Did you mean __hair_colour__?"


def test_the_suggested_escape_works(wildcards: Wildcards) -> None:
    with pytest.raises(InputFileError, match=re.escape(r"write \__init__ for this text itself")):
        Template.parse("__init__", wildcards)
    assert Template.parse(r"\__init__", wildcards).choose(0, 0) == "__init__"


def test_the_error_for_a_missing_list_names_the_list_that_contains_it(tmp_path: Path) -> None:
    wildcards = write(tmp_path, {"a": "__b__", "b": "x\n{y|__gone__}"})
    with pytest.raises(InputFileError) as caught:
        Template.parse("__a__", wildcards)
    assert caught.value.why == f"{tmp_path / 'b.txt'} contains __gone__."


def test_the_error_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputFileError) as caught:
        Wildcards(tmp_path / "lists").lines("a")
    assert caught.value.why == f"Folder {tmp_path / 'lists'} does not exist."


@pytest.mark.parametrize("name", ["../a", "b/../../a", "/a", "//a"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"a": "x", "lists/b": "x"})
    with pytest.raises(InputFileError, match="would leave the folder"):
        Wildcards(tmp_path / "lists").lines(name)


@pytest.mark.parametrize("name", ["folder", "n" * 300])
def test_an_unreadable_list_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputFileError, match="cannot be read") as caught:
        Template.parse(f"__{name}__", Wildcards(tmp_path))
    assert caught.value.why in ("Is a directory.", "File name too long.")


@pytest.mark.parametrize(
    ("files", "cycle", "last"),
    [
        ({"a": "x\n__a__"}, "a -> a", "a.txt"),
        ({"a": "{x|__b__}", "b": "x\ny __a__"}, "a -> b -> a", "b.txt"),
        ({"a": "__b__", "b": "__c__", "c": "__b__"}, "b -> c -> b", "c.txt"),
    ],
)
def test_the_error_shows_a_cycle(tmp_path: Path, files: dict[str, str], cycle: str, last: str) -> None:
    wildcards = write(tmp_path, files)
    # Twice, because lines in the cache must not hide it.
    for _ in range(2):
        with pytest.raises(InputFileError) as caught:
            Template.parse("a __a__", wildcards)
        assert caught.value.what.endswith(f"contains itself: {cycle}")
        assert caught.value.fix.endswith(f"{tmp_path / last}.")


def chain(length: int) -> dict[str, str]:
    return {f"n{number}": f"__n{number + 1}__" if number < length else "x" for number in range(1, length + 1)}


def braces(depth: int) -> str:
    return "{a|" * depth + "b" + "}" * depth


def test_nesting_up_to_the_limit_is_accepted(tmp_path: Path) -> None:
    wildcards = write(tmp_path, chain(DEPTH))
    assert Template.parse("__n1__", wildcards).choose(0, 0) == "x"
    assert list(Template.parse(braces(DEPTH), wildcards).all()) == ["a"] * DEPTH + ["b"]
    plain = "{" * 20_000 + "}" * 20_000 + "{a|" * 20_000
    assert Template.parse(plain, wildcards).choose(0, 0) == plain


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (chain(DEPTH + 1), "__n1__"),
        (chain(3000), "__n1__"),
        ({}, braces(DEPTH + 1)),
        ({}, braces(20_000)),
        (chain(DEPTH), "{a|__n1__}"),
        ({"a": braces(DEPTH)}, "__a__"),
    ],
)
def test_nesting_beyond_the_limit_is_refused(tmp_path: Path, files: dict[str, str], text: str) -> None:
    with pytest.raises(InputFileError, match="choices are nested too deep") as caught:
        Template.parse(text, write(tmp_path, files))
    assert len(caught.value.what) < 120
    assert str(DEPTH) in caught.value.why


def test_shared_lists_are_parsed_once(tmp_path: Path) -> None:
    wildcards = write(tmp_path, {f"n{number}": f"__n{number + 1}__\n__n{number + 1}__" for number in range(40)})
    (tmp_path / "n40.txt").write_text("x\ny")
    template = Template.parse("__n0__", wildcards)
    assert template.combinations == 2**41
    assert list(islice(template.all(), 3)) == ["x", "y", "x"]


def test_a_long_prompt_with_braces_is_refused_at_once(wildcards: Wildcards) -> None:
    with pytest.raises(InputFileError, match="more than 100,000 characters"):
        Template.parse('{"a":' * 50_000, wildcards)
    assert Template.parse("a " * 500_000, wildcards).combinations == 1
