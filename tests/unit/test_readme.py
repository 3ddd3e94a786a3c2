"""The README's tables and the program agree."""

from pathlib import Path

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
    for code in codes | {errors.EXIT_NO, errors.EXIT_BUG, errors.EXIT_INTERRUPTED}:
        assert f"\n| {code} | " in README
