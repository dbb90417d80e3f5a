"""``--retry-failed``: run a failed test once more, alone, when all others have ended.

A test that passes then is listed as ``UNSTABLE``, and the run passes. More than
:data:`MOST` failures fail the run, and none of them is run again.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: So many tests may be unstable in one run.
MOST = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--retry-failed",
        action="store_true",
        help="show each failure at once; run up to three failed tests once more, alone, at the end",
    )


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--retry-failed") and not is_worker:
        config.pluginmanager.register(_Retries(config))


def _test_of(report: pytest.TestReport) -> str:
    """Return a report's node id without the name of the group, which xdist puts behind an ``@``."""
    name, at, _ = report.nodeid.rpartition("@")
    return name if at and report.nodeid.rfind("@") > report.nodeid.rfind("]") else report.nodeid


def _error_of(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash else report.longreprtext
    return message.strip().partition("\n")[0]


class _Retries:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: dict[str, pytest.TestReport] = {}
        self._unstable: dict[str, pytest.TestReport] = {}
        self._all_collected = True

    @property
    def _terminal(self) -> pytest.TerminalReporter:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(terminal, pytest.TerminalReporter)
        return terminal

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._all_collected = self._all_collected and not report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            test = _test_of(report)
            self._failed.setdefault(test, report)
            self._terminal.write_line(f"\nFAILED ({report.when}) {test}: {_error_of(report)}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Run again what failed, if nothing else is wrong with the run."""
        if exitstatus != pytest.ExitCode.TESTS_FAILED or not self._all_collected:
            return
        if not 0 < len(self._failed) <= MOST:
            return
        for test, report in self._failed.items():
            if self._passes(test):
                self._unstable[test] = report
        for category in ("failed", "error"):
            reports = self._terminal.stats.get(category, [])
            reports[:] = [each for each in reports if _test_of(each) not in self._unstable]
        if self._unstable:
            self._terminal.stats["unstable"] = list(self._unstable.values())
        if self._unstable.keys() == self._failed.keys():
            session.exitstatus = pytest.ExitCode.OK

    def _passes(self, test: str) -> bool:
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in {"PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"}
        }
        self._terminal.write_line(f"\nrunning once more: {test}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
            cwd=self._config.rootpath,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            self._terminal.write_line(done.stdout + done.stderr)
        return done.returncode == 0

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._unstable:
            return
        for test, report in self._unstable.items():
            terminalreporter.section(f"{test}, which passed when it was run once more")
            terminalreporter.write_line(report.longreprtext)
        terminalreporter.section("unstable tests")
        for test, report in self._unstable.items():
            terminalreporter.write_line(f"UNSTABLE: {test}: {_error_of(report)}")
