"""The bar: where it is shown, when, and what stands beside it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

import mlartifacts
from mlartifacts.errors import InvalidConfig
from tests.contract.stores import Harbour
from tests.servers import reverse_proxy
from tests.transfer.trees import plant


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return plant(tmp_path / "here", {"a.txt": b"a", "b/c.csv": b"cc", "b/d/e.txt": b"eee"})


@pytest.fixture
def held(
    opened: Callable[[str], Harbour], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, threading.Event]]:
    """The URI of a place that takes no file until it is let."""
    s3 = opened("s3")
    let = threading.Event()

    def wait(request: reverse_proxy.Request) -> None:
        if request.method == "PUT":
            let.wait(60)

    with reverse_proxy.serve(s3.server.url) as front:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", front.url)
        front.answer = wait
        yield s3.uri("tree"), let
        let.set()


class Terminal:
    """A process whose standard error is a terminal of so many columns."""

    def __init__(self, command: list[str], columns: int) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (25, columns))
        self._process = subprocess.Popen(command, stderr=theirs)
        os.close(theirs)
        self.shown = ""

    def read_until(self, pattern: str | None = None) -> None:
        """Read what it shows until there is something, or to its end."""
        came = self.shown.encode()
        while pattern is None or not re.search(pattern, self.shown):
            try:
                data = os.read(self._ours, 1024)
            except OSError:  # the other side is closed
                break
            came += data
            self.shown = came.decode(errors="ignore")

    def end(self) -> str:
        """Wait for its end, and give all that it showed."""
        self.read_until()
        os.close(self._ours)
        assert self._process.wait(60) == 0
        return self.shown


UPLOAD = "import sys, mlartifacts; mlartifacts.upload(sys.argv[1], sys.argv[2])"


@pytest.mark.parametrize(
    ("columns", "beside"),
    [
        (40, r"6\.00/6\.00"),
        (80, r"6\.00/6\.00 \[00:00, +[\d.]+B/s, 3/3 files\]"),
        (120, r"6\.00/6\.00 \[00:\d\d<00:00, +[\d.]+B/s, 3/3 files\]"),
    ],
)
@pytest.mark.parametrize("name", ["here", "h" * 200])
def test_a_bar_shows_what_takes_long(
    columns: int, beside: str, name: str, here: Path, held: tuple[str, threading.Event]
) -> None:
    """Though not a byte came, and not before."""
    here = here.rename(here.with_name(name))
    uri, let = held
    terminal = Terminal([sys.executable, "-c", UPLOAD, str(here), uri], columns)
    try:
        terminal.read_until(r"0%\| +\| 0\.00/6\.00")
    finally:
        let.set()
    lines = [line for line in re.split(r"[\r\n]+", terminal.end()) if line]
    label = "upload here" if name == "here" else r"upload h+\.\.\."
    assert re.fullmatch(rf"{label}:   0%\| +\| .*", lines[0]), lines
    assert re.fullmatch(rf"{label}: 100%\|█{{4,}}\| {beside}", lines[-1]), lines
    assert max(map(len, lines)) <= columns


#: A bar is due at once, so that one is missing only where none is wanted.
AT_ONCE = """
import sys, threading
from mlartifacts.transfer import progress
progress._AFTER = 0
threading.Timer.start = threading.Timer.run
import mlartifacts
mlartifacts.upload(sys.argv[1], sys.argv[2])
"""
KERNEL = "import ipykernel.zmqshell, ipywidgets\n"
WHOLE = re.compile(r"^upload here: 100%.* 6\.00/6\.00 .*B/s, 3/3 files\]$", re.MULTILINE)


@pytest.mark.parametrize("imported", ["", KERNEL])
@pytest.mark.parametrize(
    ("where", "variable", "is_shown"),
    [
        ("terminal", "", True),
        ("terminal", "false", False),
        ("pipe", "", False),
        ("pipe", "true", False),
    ],
)
def test_a_bar_on_terminals_alone(
    here: Path,
    tmp_path: Path,
    where: str,
    variable: str,
    is_shown: bool,
    imported: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever was imported that belongs to notebooks."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", variable)
    command = [sys.executable, "-c", imported + AT_ONCE, str(here), str(tmp_path / "there")]
    if where == "terminal":
        shown = Terminal(command, 100).end()
    else:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        shown = (done.stdout + done.stderr).decode()
    assert (WHOLE.search(shown.replace("\r", "\n")) is not None) is is_shown, shown
    assert is_shown or not shown


def test_what_takes_a_moment_shows_no_bar(here: Path, tmp_path: Path) -> None:
    script = "from mlartifacts.transfer import progress; progress._AFTER = 3600\n" + UPLOAD
    assert Terminal([sys.executable, "-c", script, str(here), f"{tmp_path}/x"], 80).end() == ""


def test_a_label_commands_no_terminal(here: Path, tmp_path: Path) -> None:
    here = here.rename(here.with_name("\u202e\udcff"))
    command = [sys.executable, "-c", AT_ONCE, str(here), str(tmp_path / "there")]
    assert r"upload \u202e\udcff: 100%" in Terminal(command, 120).end()


Run = Callable[[str], Iterator[tuple[str, Any]]]


@pytest.fixture
def kernel() -> Iterator[Callable[[], Run]]:
    """Start a kernel of Jupyter's, which runs cells and gives what comes of them, by kinds."""
    with contextlib.ExitStack() as stack:

        def start() -> Run:
            manager, client = start_new_kernel()
            stack.callback(manager.shutdown_kernel, now=True)
            stack.callback(client.stop_channels)

            def run(code: str) -> Iterator[tuple[str, Any]]:
                cell = client.execute(code)
                while True:
                    message = client.get_iopub_msg(timeout=60)
                    assert message["parent_header"]["msg_id"] == cell
                    content = message["content"]
                    if content.get("execution_state") == "idle":
                        return
                    yield message["msg_type"], content

            return run

        yield start


def test_a_bar_in_a_notebook(
    held: tuple[str, threading.Event], kernel: Callable[[], Run], here: Path
) -> None:
    """Below its own cell, and with names that are no HTML."""
    uri, let = held
    here = here.rename(here.with_name("<b>here"))
    kinds, texts = [], []
    for kind, content in kernel()(
        f"import mlartifacts; mlartifacts.upload({str(here)!r}, {uri!r})"
    ):
        kinds.append(kind)
        if kind == "display_data":
            assert "application/vnd.jupyter.widget-view+json" in content["data"]
            let.set()
        if kind in {"comm_open", "comm_msg"}:
            texts.append(content["data"].get("state", {}).get("value"))
    assert kinds.count("display_data") == 1
    assert set(kinds) <= {*MOMENT, "display_data", "comm_open", "comm_msg"}
    shown = [text.replace("\u2007", " ") for text in texts if isinstance(text, str)]
    assert "upload &lt;b&gt;here: 100%" in shown
    assert any(re.search(r"6\.00/6\.00 .*, 3/3 files\]", text) for text in shown)
    assert not any("<b>" in text for text in shown)


#: What comes of a cell without a bar.
MOMENT = ["status", "execute_input", "execute_result"]


def test_no_bar_in_a_notebook(kernel: Callable[[], Run], here: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    run = kernel()

    def kinds(before: str) -> list[str]:
        code = f"mlartifacts.upload({str(here)!r}, {str(tmp_path / 'there')!r})"
        return [kind for kind, _ in run(f"{before}\n{code}")]

    imports = "import mlartifacts, os, threading\nfrom mlartifacts.transfer import progress"
    assert kinds(f"{imports}\nprogress._AFTER = 3600") == MOMENT
    at_once = "progress._AFTER = 0; threading.Timer.start = threading.Timer.run"
    assert "display_data" in kinds(at_once)
    assert kinds("os.environ['MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR'] = 'false'") == MOMENT


def test_a_bad_variable_for_the_bar(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "maybe")
    with pytest.raises(InvalidConfig, match="PROGRESS_BAR"):
        mlartifacts.upload(here, tmp_path / "there")
