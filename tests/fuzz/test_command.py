"""Shell quoting: what a printed command says, a shell and the command line read back."""

from __future__ import annotations

import shlex
from typing import Any, get_args

import hypothesis
from hypothesis import example, given
from hypothesis import strategies as st

from sdcli.errors import UsageError
from sdcli.jobs import from_home
from sdcli.outputs.command import command_of
from sdcli.settings import Settings, default, options
from sdcli.terminal import printable
from tests.fuzz.inputs import assert_printable
from tests.fuzz.program import COMMAND

TXT2IMG = COMMAND.commands["txt2img"]  # type: ignore[attr-defined]


def value_of(name: str) -> st.SearchStrategy[Any]:
    """The values that a setting can have, by its facets."""
    line = options()[name]
    if line.choices:
        return st.sampled_from(line.choices)
    if line.repeats:
        return st.lists(st.text(min_size=1)).map(tuple)
    annotation = Settings.model_fields[name].annotation
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    if kinds == [int]:
        return st.integers(line.least, line.most)
    if kinds == [float]:
        return st.floats(line.least, line.most, allow_nan=False, allow_infinity=False)
    return st.booleans() if kinds == [bool] else st.text()


def settings() -> st.SearchStrategy[dict[str, Any]]:
    """Some settings with valid values. Together they may contradict each other."""
    values = {name: value_of(name) for name, line in options().items() if not line.list_of}
    return st.lists(st.sampled_from(sorted(values)), max_size=6, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: values[name] for name in names})
    )


def given_by(words: list[str]) -> dict[str, Any]:
    """The values that a command line gives, by setting."""
    context = TXT2IMG.make_context("txt2img", words, resilient_parsing=True)
    sources = {name: context.get_parameter_source(name) for name in options()}
    given = {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    return {name: value[0] if name == "prompt" else value for name, value in given.items()}


@given(values=settings())
@example({"prompt": "$'..\\'..'; touch x"})
@example({"prompt": "a\\'b' 'c"})
@example({"prompt": "-x", "outdir": "~/a b"})
@example({"prompt": "", "negative_prompt": "\x9b\u202e\n#"})
def test_a_shell_reads_a_command_back(values: dict[str, Any]) -> None:
    printed = command_of(values)
    assert_printable(printed)
    words = shlex.split(printed, comments=True)
    assert words[:2] == ["sdcli", "txt2img"]
    given = given_by(words[2:])
    switches = {name for name, line in options().items() if line.stands_for and line.stands_for.keys() <= values.keys()}
    for name, value in values.items():
        if value is None or value == default(name) or name in switches:
            continue
        read = given[name]
        if options()[name].repeats:
            assert [from_home(each) for each in read] == [from_home(printable(each)) for each in value]
            continue
        text = printable(str(value))
        assert (from_home(text) if options()[name].path else text) in (str(read), from_home(read))


@given(values=settings())
@example({"n_samples": 1, "n_iter": 2, "images_per_prompt": 1})
def test_the_settings_of_a_command_are_those_that_it_was_made_of(values: dict[str, Any]) -> None:
    try:
        before = Settings.of(**values)
    except UsageError:
        hypothesis.reject()
    words = shlex.split(command_of(values), comments=True)
    after = Settings.of(**given_by(words[2:]))
    for name, value in before:
        if isinstance(value, str | tuple):
            read = getattr(after, name)
            texts, found = ((value,), (read,)) if isinstance(value, str) else (value, read)
            assert [from_home(each) for each in found] == [from_home(printable(each)) for each in texts], name
        else:
            assert getattr(after, name) == value, name
