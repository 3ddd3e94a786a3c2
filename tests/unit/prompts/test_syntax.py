"""What each prompt syntax reads: weights, breaks, schedules, parts and LoRAs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcli.prompts.syntax import HEAVIEST, Adapter, Piece, a1111, compel, looks_like, novelai, parse
from sdcli.registry import SYNTAXES

STEPS = 10


def pieces(text: str, syntax: str = "a1111") -> list[list[tuple[str, float]]]:
    """The pieces of a prompt of one part and one stage, by section."""
    (part,) = parse(text, syntax, STEPS).parts
    ((_, (passage,)),) = part.stages
    return [[(piece.text, round(piece.weight, 6)) for piece in section.pieces] for section in passage.sections]


def by_step(text: str, steps: int = STEPS) -> list[str]:
    """The text of a prompt in each of A1111's steps, which begin with 1."""
    (part,) = parse(text, "a1111", steps).parts
    return [
        "".join(piece.text for section in passage.sections for piece in section.pieces)
        for step in range(1, steps + 1)
        for passage in part.at(step)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat]", [("cat", 0.909091)]),
        ("(cat:1.5)", [("cat", 1.5)]),
        ("(cat: 1.5 )", [("cat", 1.5)]),
        ("(cat:-0.5)", [("cat", -0.5)]),
        ("(cat:.5)", [("cat", 0.5)]),
        ("(a (red:2) cat:1.5)", [("a ", 1.5), ("red", 3), (" cat", 1.5)]),
        ("((cat:1.5))", [("cat", 1.65)]),
        ("(cat", [("cat", 1.1)]),
        ("[a (cat", [("a ", 0.909091), ("cat", 1)]),
        ("cat)", [("cat)", 1)]),
        ("cat:1.5)", [("cat:1.5)", 1)]),
        ("[cat:1.5)", [("cat:1.5)", 0.909091)]),
        (r"\(cat\) \[x\] \\", [(r"(cat) [x] " + "\\", 1)]),
        (r"a\b", [("ab", 1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 0.909091)]),
        ("(a, b:c)", [("a, b:c", 1.1)]),
        ("(x:1,5)", [("x:1,5", 1.1)]),
        ("(x:1.2.3)", [("x:1.2.3", 1.1)]),
        ("(x:)", [("x:", 1.1)]),
        ("{red|blue}", [("{red|blue}", 1)]),
    ],
)  # fmt: skip
def test_weights_of_a1111(text: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [[("a", 1)], [("b", 1)]]),
        ("a  BREAK\n BREAK b", [[("a", 1)], [], [("b", 1)]]),
        ("BREAK a", [[], [("a", 1)]]),
        ("a BREAK", [[("a", 1)], []]),
        ("(a) BREAK (b:2)", [[("a", 1.1)], [("b", 2)]]),
        ("BREAKFAST breaks", [[("BREAKFAST breaks", 1)]]),
        # A break in brackets is a word with a negative weight there.
        ("(a BREAK b:2)", [[("a", 2), ("BREAK", -2), ("b", 2)]]),
    ],
)  # fmt: skip
def test_breaks_of_a1111(text: str, expected: list[list[tuple[str, float]]]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [cat:dog:4]", ["a cat"] * 4 + ["a dog"] * 6),
        ("a [cat:dog:0.4]", ["a cat"] * 4 + ["a dog"] * 6),
        ("a [cat:dog: .4 ]", ["a cat"] * 4 + ["a dog"] * 6),
        ("a [cat:4]", ["a "] * 4 + ["a cat"] * 6),
        ("a [cat::4]", ["a cat"] * 4 + ["a "] * 6),
        ("[a:b:0]", ["b"] * 10),
        ("[a:b:1.0]", ["a"] * 10),
        ("[a:b:99]", ["a"] * 10),
        ("[a:[b:c:6]:2]", ["a"] * 2 + ["b"] * 4 + ["c"] * 4),
        ("[cat|dog]s", ["cats", "dogs"] * 5),
        ("[a|b|]", ["a", "b", "", "a", "b", "", "a", "b", "", "a"]),
        ("[a|[b:c:4]]", ["a", "b", "a", "b", "a", "c", "a", "c", "a", "c"]),
        ("(a [b:c:5]:1.5)", ["a b"] * 5 + ["a c"] * 5),
        (r"\[a:b:5\]", ["[a:b:5]"] * 10),
        # Brackets that fit no rule are text, and so is a bar elsewhere.
        ("[a:b]", ["a:b"] * 10),
        ("[a:b:c:5]", ["a:b:c:5"] * 10),
        ("(x [a:b:5]", ["x a"] * 5 + ["x b"] * 5),
        ("x] [a:b:5]", ["x] a"] * 5 + ["x] b"] * 5),
        ("x | [a:b:5]", ["x | a:b:5"] * 10),
    ],
)  # fmt: skip
def test_schedules_of_a1111(text: str, expected: list[str]) -> None:
    assert by_step(text) == expected


def test_a_schedule_counts_the_steps_of_the_image() -> None:
    assert by_step("[a:b:0.25]", 8) == ["a"] * 2 + ["b"] * 6
    assert by_step("[a:b:3]", 4) == ["a"] * 3 + ["b"]


def test_a_stage_includes_its_last_step_counted_from_0_as_in_the_web_ui() -> None:
    (part,) = parse("[a:b:4]", "a1111", STEPS).parts
    texts = [part.at(step)[0].sections[0].pieces[0].text for step in range(STEPS)]
    assert texts == ["a"] * 5 + ["b"] * 5


def test_parts_of_a1111() -> None:
    found = parse("a cat :1.5 AND a (dog:2) AND ANDROMEDA :-1", "a1111", STEPS).parts
    assert [part.weight for part in found] == [1.5, 1, -1]
    texts = [[piece.text for piece in part.at(0)[0].sections[0].pieces] for part in found]
    assert texts == [["a cat"], [" a ", "dog"], [" ANDROMEDA"]]
    (negative,) = parse("a AND b", "a1111", STEPS, negative=True).parts
    assert negative.at(0)[0].sections[0].pieces == (Piece("a AND b"),)


def test_loras_of_a1111() -> None:
    found = parse("a <lora:one:0.8>cat<lora:two> <lyco:c:0.5:0.2><lora:d:te=1:unet=0.3>", "a1111", STEPS)
    assert found.adapters == (Adapter("one", 0.8, 0.8), Adapter("two", 1, 1), Adapter("c", 0.2, 0.5),
                              Adapter("d", 0.3, 1))  # fmt: skip
    assert next(found.pieces()).text == "a cat"
    assert not found.notes
    assert parse("a <lora:x:0.8>", "plain", STEPS).adapters == ()
    odd = parse("<lora:x:much> <hypernet:y:1>", "a1111", STEPS)
    assert not odd.adapters and "lora:x:much" in "".join(piece.text for piece in odd.pieces())
    assert [note.partition(" ")[0] for note in odd.notes] == ["a", "<hypernet:y:1>"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("a (x:1,5) b", "the weight in (x:1,5) is not a number"),
        ("a (x:1.2.3) b", "the weight in (x:1.2.3) is not a number"),
        ("a (big cat", "a bracket is not closed, and counts to the end: (big cat"),
        ("at 12:30", "the whole prompt has the weight 30"),
        ("(" * 200, "more than 100 brackets"),
    ],
)
def test_notes_of_a1111(text: str, note: str) -> None:
    assert any(note in each for each in parse(text, "a1111", STEPS).notes)


@pytest.mark.parametrize("text", ["a cat", "a (cat:1.5) [x] [a:b:3]", "(artist (series))", "x:y, (re:zero)"])
def test_well_formed_prompts_have_no_notes(text: str) -> None:
    assert not parse(text, "a1111", STEPS).notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{cat}", [("cat", 1.05)]),
        ("a {{red}} [[cat]]", [("a ", 1), ("red", 1.1025), (" ", 1), ("cat", 0.907029)]),
        ("{a|b} (c:1.5)", [("a|b", 1.05), (" (c:1.5)", 1)]),
        (r"\{a\}", [("{a}", 1)]),
        ("a BREAK b", [("a BREAK b", 1)]),
    ],
)  # fmt: skip
def test_weights_of_novelai(text: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(text, "novelai") == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat+", [("a ", 1), ("cat", 1.1)]),
        ("a cat++, dog--", [("a ", 1), ("cat", 1.21), (", ", 1), ("dog", 0.81)]),
        ("(a cat)1.3 b", [("a cat", 1.3), (" b", 1)]),
        ("(a cat)+", [("a cat", 1.1)]),
        ('"a cat"- b', [("a cat", 0.9), (" b", 1)]),
        ("(a red+ cat)2", [("a ", 2), ("red", 2.2), (" cat", 2)]),
        ("(a cat).attend(1.5)", [("a cat", 1.5)]),
        ("a (cat) b", [("a cat b", 1)]),
        ("semi-realistic", [("semi-realistic", 1)]),
        (r"a \(cat\)+ c\+", [("a (cat)+ c+", 1)]),
        ("(a cat", [("(a cat", 1)]),
        ('"1girl"+', [("1girl", 1.1)]),
    ],
)  # fmt: skip
def test_weights_of_compel(text: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(text, "compel") == [expected]


def test_operators_of_compel() -> None:
    (part,) = parse('("a cat", "a (dog)2").blend(1, 3)', "compel", STEPS).parts
    assert [(passage.share, passage.sections[0].pieces) for passage in part.at(0)] == [
        (0.25, (Piece("a cat"),)), (0.75, (Piece("a "), Piece("dog", 2))),
    ]  # fmt: skip
    (part,) = parse('("a", "b").blend(1, 3, no_normalize)', "compel", STEPS).parts
    assert [passage.share for passage in part.at(0)] == [1, 3]
    (part,) = parse('("a", "b").and(1, 0.5)', "compel", STEPS).parts
    (passage,) = part.at(0)
    assert [(section.scale, section.pieces[0].text) for section in passage.sections] == [(1, "a"), (0.5, "b")]
    assert parse("a cat withLora(one, 0.7)", "compel", STEPS).adapters == (Adapter("one", 0.7, 0.7),)
    for odd in ('("a", "b").blend(1)', '("a", "b").blend(1, -1)', '("a").and(x)'):
        found = parse(odd, "compel", STEPS)
        assert "is read as text" in found.notes[0] and len(found.parts[0].at(0)) == 1


ODD = st.text(st.sampled_from('()[]{}<>:|+-.\\" ,01abAND'), max_size=60)
WORDS = st.sampled_from(["BREAK", " AND ", "[a:b:3]", "<lora:x:1>", "(x:1.5)", ").blend(1)", "\\", "\U0001f600", "猫"])
ANY = st.one_of(st.text(max_size=100), ODD, st.lists(st.one_of(ODD, WORDS), max_size=6).map("".join))


@given(ANY, st.sampled_from(list(SYNTAXES)), st.integers(1, 30), st.booleans())
def test_any_text_is_read(text: str, syntax: str, steps: int, negative: bool) -> None:
    found = parse(text, syntax, steps, negative=negative)
    assert found.parts and all(part.stages[-1][0] == steps for part in found.parts)
    assert all(passage.sections for passage in found.passages())


@given(st.text(max_size=60), st.sampled_from([a1111, novelai, compel]))
def test_an_escaped_text_is_read_as_it_is(text: str, module: object) -> None:
    name = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    found = parse(module.escaped(text), name, STEPS, negative=True)  # type: ignore[attr-defined]
    if "BREAK" not in text:
        assert "".join(piece.text for piece in found.pieces()) == text
        assert all(piece.weight == 1 for piece in found.pieces())


@given(st.lists(st.sampled_from([("(", ")", 1.1), ("[", "]", 1 / 1.1), ("(", ":1.5)", 1.5)]), max_size=12))
def test_nested_brackets_multiply(nesting: list[tuple[str, str, float]]) -> None:
    text, weight = "cat", 1.0
    for before, after, factor in nesting:
        text, weight = f"{before}{text}{after}", weight * factor
    ((piece,),) = pieces(text)
    assert piece == ("cat", pytest.approx(weight, rel=1e-5))


@pytest.mark.parametrize("unit", ["(", "(a", "[a:", "(a:1.1", "[a|", "<lora:", "{", '"', "a+ ", " ", "BREAK ", "\\"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_long_texts_are_read_quickly(unit: str, syntax: str) -> None:
    start = time.process_time()
    parse(unit * (20_000 // len(unit)), syntax, STEPS)
    assert time.process_time() - start < 2


def test_heaviest_weight() -> None:
    assert parse("(a:2) AND b :-7", "a1111", STEPS).heaviest == 7
    assert parse("(" * 90 + "a", "a1111", STEPS).heaviest > HEAVIEST


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (red:1.3) cat", ("a1111", "(red:1.3)")),
        ("a <lora:x:0.8>", ("a1111", "<lora:x:0.8>")),
        ("a BREAK b", ("a1111", "BREAK")),
        ("a {{cat}}", ("novelai", "{{cat}}")),
        ("a cat++", ("compel", "t++")),
        ("a cat (small), {red|blue}", None),
        ("well-known, C minor - 16:9", None),
    ],
)
def test_a_prompt_that_looks_weighted(text: str, expected: tuple[str, str] | None) -> None:
    assert looks_like(text) == expected
