"""Fuzzing: arbitrary and damaged input never makes sdcli fail with an error that is not its own, hang, or take memory.

`make test` tries a few inputs for each test, always the same ones. `make fuzz MINUTES=60` (`pytest tests/fuzz --minutes
60`) tries others for so long, and prints what was tried. Hypothesis keeps failing inputs in `.hypothesis` and tries
them first the next time; make each a seed, with `@example` or as a file in `seeds/`, when its fault is fixed.
"""

from __future__ import annotations

import functools
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import UnsatisfiedAssumption

from sdcli.cli.console import Console
from sdcli.errors import EXIT_BUG
from tests.fuzz import inputs, limits

_SMALL = 20_000
"""Characters of an input that `make test` tries; `make fuzz` tries larger ones."""
_ADDRESS_SPACE = 4 * 2**30
"""Bytes that the process may allocate in all, beyond those of the libraries."""

_EVERY = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile(
    "few", max_examples=10, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate), **_EVERY
)
settings.register_profile("fuzz", max_examples=500, print_blob=True, **_EVERY)

_tried: dict[str, limits.Tried] = {}
_ends = float("inf")
"""When the time of the running test is over."""
_all_end = 0.0
_started = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="Fuzz for so long, and divide the time among the tests.")


def pytest_itemcollected(item: pytest.Item) -> None:
    test: Any = getattr(item, "obj", None)
    if not hasattr(test, "hypothesis"):
        return
    # About the repr of a failing input.
    item.add_marker(pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"))
    if hasattr(test, "is_guarded"):
        return
    minutes = item.config.getoption("minutes", None)
    inputs.small = minutes is None
    test.is_guarded = True
    test.hypothesis.inner_test = _guarded(test.hypothesis.inner_test)
    settings.get_profile("few" if minutes is None else "fuzz")(test)


def _guarded(test: Callable[..., None]) -> Callable[..., None]:
    """The test of one input, which fails if the input takes more time or memory than any may."""

    @functools.wraps(test)
    def guarded(*args: Any, **kwargs: Any) -> None:
        if inputs.small and _size([*args, *kwargs.values()]) > _SMALL:
            return
        try:
            with limits.limited():
                test(*args, **kwargs)
        except UnsatisfiedAssumption:
            raise
        except Exception:
            limits.now.failures = 1  # hypothesis now looks for the smallest such input, and needs its time
            raise
        if time.monotonic() > _ends and not limits.now.failures:
            pytest.skip("the time is over")

    return guarded


def _size(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return _size([*value, *value.values()])
    return 1 + sum(map(_size, value)) if isinstance(value, (list, tuple)) else 1


@pytest.fixture(scope="module", autouse=True)
def guards(request: pytest.FixtureRequest) -> Iterator[None]:
    """A bug is raised instead of reported, a hang is interrupted, and `--minutes` limits the memory."""
    report = Console.failure

    def failure(self: Console, error: Exception, file: str = "") -> int:
        code = report(self, error, file)
        if code == EXIT_BUG:
            raise error
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Console, "failure", failure)
        before = {number: signal.signal(number, limits.interrupt) for number in (signal.SIGALRM, signal.SIGPROF)}
        limit = resource.getrlimit(resource.RLIMIT_AS)
        if request.config.getoption("minutes", None) is not None:
            import torch  # noqa: F401  # takes address space, so before the limit

            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, limit[1]))
        yield
        resource.setrlimit(resource.RLIMIT_AS, limit)
        for number, handler in before.items():
            signal.signal(number, handler)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    global _ends, _all_end, _started
    minutes = pyfuncitem.config.getoption("minutes", None)
    if minutes is None or not hasattr(pyfuncitem.obj, "hypothesis"):
        return None
    start = time.monotonic()
    _all_end = _all_end or start + 60 * minutes
    tests = sum(hasattr(getattr(item, "obj", None), "hypothesis") for item in pyfuncitem.session.items)
    _ends = start + max(0.1, _all_end - start) / (tests - _started)
    _started += 1
    limits.now = now = _tried[pyfuncitem.nodeid.rpartition("/")[2]] = limits.Tried()
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        while True:
            pyfuncitem.obj(**arguments)
    except pytest.skip.Exception:
        return True
    except Exception as error:
        now.failures = len(error.exceptions) if isinstance(error, ExceptionGroup) else 1
        raise


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _tried:
        return
    total = limits.Tried(
        sum(one.inputs for one in _tried.values()),
        max(one.slowest for one in _tried.values()),
        max(one.memory for one in _tried.values()),
        sum(one.failures for one in _tried.values()),
    )
    width = max(map(len, _tried))
    terminalreporter.section("inputs tried")
    terminalreporter.line(f"{'test':{width}}      inputs  slowest      memory  failures")
    for name, one in (*_tried.items(), ("all", total)):
        memory = one.memory / 2**20
        terminalreporter.line(
            f"{name:{width}}  {one.inputs:>10,}  {one.slowest:>5.2f} s  {memory:>7.0f} MB  {one.failures:>8}"
        )
