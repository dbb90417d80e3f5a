"""What CI makes of tests that fail: those that fail twice fail the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import retries

pytest_plugins = ["pytester"]

#: A module whose test fails the first time for each of some numbers.
ONCE = """
    from pathlib import Path
    import pytest

    def first(name):
        seen = Path(__file__).with_name(name)
        if seen.exists():
            return False
        seen.touch()
        return True

    @pytest.mark.parametrize("number", [f"a b@{n}" for n in range(COUNT)])
    def test_once(number):
        assert not first(f"seen-{number}"), f"the first time\\nof {number}"

    def test_well():
        pass
"""


def _some(count: int) -> str:
    return ONCE.replace("COUNT", str(count))


@pytest.fixture(params=[(), ("-n", "2", "--dist", "loadgroup")], ids=["alone", "xdist"])
def run(
    request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> object:
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parent.parent))
    # No others: each takes its time to load, in each of many processes.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", f"{retries.__name__},xdist.plugin")
    return lambda: pytester.runpytest_subprocess("--retry-failed", "-q", "-ra", *request.param)


def test_a_test_that_fails_once(run, pytester) -> None:
    pytester.makepyfile(_some(3))
    result = run()
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    test = "test_a_test_that_fails_once.py::test_once"
    result.stdout.fnmatch_lines_random(
        [
            f"FAILED (call) {test}*: AssertionError: the first time",
            *(f"UNSTABLE: {test}?a b@{n}?: AssertionError: the first time" for n in range(3)),
        ]
    )
    assert "1 passed, 3 unstable" in result.stdout.lines[-1]
    assert not any(line.startswith(f"FAILED {test}") for line in result.stdout.lines)


def test_more_tests_than_may_be_unstable(run, pytester) -> None:
    pytester.makepyfile(_some(retries.MOST + 1))
    result = run()
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=retries.MOST + 1)
    result.stdout.no_fnmatch_line("UNSTABLE*")


def test_a_test_that_fails_twice(run, pytester) -> None:
    pytester.makepyfile(_some(1) + "\n    def test_never():\n        assert False, 'always'\n")
    result = run()
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines_random(
        ["UNSTABLE: *::test_once*", "FAILED test_*::test_never - AssertionError: always"]
    )


def test_a_fixture_that_fails_once(run, pytester) -> None:
    fixture = """
    @pytest.fixture
    def broken():
        yield
        assert not first("it")
"""
    pytester.makepyfile(_some(0).replace("test_well()", "test_well(broken)") + fixture)
    result = run()
    assert result.ret == 0
    result.stdout.fnmatch_lines_random(["FAILED (teardown) *", "UNSTABLE: *::test_well: *"])


def test_a_module_that_cannot_be_collected(run, pytester) -> None:
    pytester.makepyfile("import nothing_of_this_name")
    result = run()
    assert result.ret != 0
    result.stdout.no_fnmatch_line("UNSTABLE*")
