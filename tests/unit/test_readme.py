"""The README's tables and the program agree."""

from pathlib import Path
from signal import SIGHUP, SIGINT, SIGPIPE, SIGTERM

from sdcli import errors
from sdcli.cli.reference import PLACE, table

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_flags_are_those_of_the_program() -> None:
    """Made anew with `make readme`."""
    found = PLACE.search(README)
    assert found
    assert found[0] == table()


def test_exit_codes_are_those_of_the_program() -> None:
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SdcliError)
    }
    signals = {errors.EXIT_SIGNAL + number for number in (SIGHUP, SIGINT, SIGPIPE, SIGTERM)}
    for code in codes | signals | {errors.EXIT_NO, errors.EXIT_BUG}:
        assert f"\n| {code} | " in README
