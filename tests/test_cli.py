"""The command line, on a real store."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import mlartifacts
from mlartifacts.cli import main
from tests.servers import artifact_server
from tests.servers.moto import Moto
from tests.servers.process import LOOPBACK, base_env, wait_until
from tests.servers.silent import Hanging

TREE = {"a b.txt": b"one\n", "data/x.parquet": b"22", "data/deep/ünï": b"333"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a tree in it, where the commands are run."""
    folder = tmp_path / "here"
    for name, data in TREE.items():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes(data)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def there(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty place in S3."""
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    return moto_server.new_root()


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., list[str]]:
    """Run a command that goes well, and give the lines that it says."""

    def run_(*arguments: str) -> list[str]:
        status = main(arguments)
        said, wrong = capfdbinary.readouterr()
        assert (status, wrong) == (0, b"")
        return said.decode().splitlines()

    return run_


@pytest.fixture
def fails(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., list[str]]:
    """Run a command that fails, and give the lines that it says of it."""

    def fails_(*arguments: str) -> list[str]:
        status = main(arguments)
        said, wrong = capfdbinary.readouterr()
        assert (status, said) == (1, b"")
        lines = wrong.decode().splitlines()
        assert lines
        assert all(line.startswith("mlartifacts: ") for line in lines)
        return [line.removeprefix("mlartifacts: ") for line in lines]

    return fails_


def test_there_and_back(here: Path, there: str, run: Callable[..., list[str]]) -> None:
    assert run("cp", "tree", f"{there}/run") == []
    assert run("ls", f"{there}/run") == ["a b.txt", "data/"]
    assert run("ls", "-R", f"{there}/run") == ["a b.txt", "data/deep/ünï", "data/x.parquet"]
    assert run("ls", f"{there}/run/a b.txt") == ["a b.txt"]
    assert run("cat", f"{there}/run/a b.txt", f"{there}/run/data/x.parquet") == ["one", "22"]
    assert run("cp", f"{there}/run/data", "back") == []
    assert (here / "back" / "deep" / "ünï").read_bytes() == b"333"
    assert run("cp", f"{there}/run/a b.txt", "back/") == []
    assert (here / "back" / "a b.txt").read_bytes() == b"one\n"


def test_a_long_listing(here: Path, there: str, run: Callable[..., list[str]]) -> None:
    run("cp", "tree", there)
    for place in ("tree", there):
        file, folder = run("ls", "-l", place)
        size, day, time, name = file.split(maxsplit=3)
        assert (size, name) == ("4", "a b.txt")
        assert len(day) + len(time) == 18
        assert folder.split() == ["data/"]
        assert file.index("a b.txt") == folder.index("data/")


def test_patterns_and_what_would_be_done(
    here: Path, there: str, run: Callable[..., list[str]]
) -> None:
    only = ("--include", "data/**", "--include", "*.md", "--exclude", "**/*.parquet")
    assert run("cp", "-n", *only, "tree", there) == ["data/deep/ünï"]
    assert run("ls", there) == []
    run("cp", *only, "tree", there)
    assert run("ls", "-R", there) == ["data/deep/ünï"]
    assert run("sync", "--dry-run", "tree", there) == ["a b.txt", "data/x.parquet"]
    assert run("rm", "-n", there) == ["data/deep/ünï"]
    assert run("rm", "--exclude", "data/**", there) == []
    assert run("ls", "-R", there) == ["data/deep/ünï"]
    assert run("rm", "tree/data") == []
    assert [path.name for path in (here / "tree").iterdir()] == ["a b.txt"]


def test_sync(here: Path, there: str, run: Callable[..., list[str]]) -> None:
    run("sync", "tree", there)
    (here / "tree" / "a b.txt").write_bytes(b"changed")
    (here / "tree" / "data" / "x.parquet").unlink()
    run("sync", "tree", there)
    assert run("cat", f"{there}/a b.txt") == ["changed"]
    assert "data/x.parquet" in run("ls", "-R", there)
    assert run("sync", "--delete", "-n", "tree", there) == ["data/x.parquet (deleted)"]
    run("sync", "--delete", "tree", there)
    assert run("ls", "-R", there) == ["a b.txt", "data/deep/ünï"]


def test_overwrite(here: Path, there: str, run: Callable[..., list[str]]) -> None:
    run("cp", "tree/a b.txt", f"{there}/file")
    (here / "tree" / "a b.txt").write_bytes(b"changed")
    run("cp", "--overwrite", "never", "tree/a b.txt", f"{there}/file")
    assert run("cat", f"{there}/file") == ["one"]
    run("cp", "tree/a b.txt", f"{there}/file")
    assert run("cat", f"{there}/file") == ["changed"]


def test_what_is_wrong(here: Path, there: str, fails: Callable[..., list[str]]) -> None:
    bucket = there.removeprefix("s3://")
    assert fails("ls", f"{there}/nothing") == [f"{bucket}/nothing: No such file or directory"]
    assert fails("cat", f"{there}/nothing") == [f"{bucket}/nothing: No such file or directory"]
    assert fails("ls", "-R", f"{there}/nothing") == [f"{bucket}/nothing: No such file or directory"]
    assert "Is a directory" in fails("cat", "tree")[0]
    assert "UnknownScheme" not in fails("ls", "nothing://x")[0]
    assert "No store serves the scheme 'nothing'" in fails("ls", "nothing://x")[0]
    assert "MLFLOW_TRACKING_URI" in fails("resolve", "runs:/abc")[0]
    assert "a-password" not in fails("ls", "sftp://user:a-password@[bad/x")[0]
    assert "matches nothing" in fails("rm", "--include", "./x", "tree")[0]


def test_files_that_fail(here: Path, there: str, fails: Callable[..., list[str]]) -> None:
    mlartifacts.upload("tree", there)
    for name in ("a b.txt", "data/x.parquet"):
        Path("to", name).mkdir(parents=True)
    said = "2 files were not copied: Is a directory (a b.txt, data/x.parquet)"
    assert fails("cp", there, "to") == [said]
    assert Path("to/data/deep/ünï").read_bytes() == b"333"
    Path("to/data/deep/ünï").unlink()
    Path("to/data/deep").rmdir()
    Path("to/data/deep").write_bytes(b"in the way")
    told = fails("cp", there, "to")
    assert told[:2] == [
        "3 files were not copied:",
        "  Is a directory (2 files: a b.txt, data/x.parquet)",
    ]
    assert told[2].endswith(" (data/deep/ünï)")
    assert len(told) == 3


def test_a_command_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        (),
        ("nothing",),
        ("ls",),
        ("cp", "x"),
        ("cp", "--overwrite", "maybe", "x", "y"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: mlartifacts" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlartifacts", *arguments]


def test_a_reader_that_has_enough(here: Path) -> None:
    (here / "large").write_bytes(bytes(10_000_000))
    reading, writing = os.pipe()
    with subprocess.Popen(
        command("cat", "large"), stdout=writing, stderr=subprocess.PIPE, env=base_env()
    ) as process:
        os.close(writing)
        assert os.read(reading, 10) == bytes(10)
        os.close(reading)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_outputs_that_take_nothing(here: Path) -> None:
    for arguments in ("ls tree", "cat 'tree/a b.txt'"):
        for redirected in (">&-", "> /dev/full"):
            script = f"{sys.executable} -m mlartifacts {arguments} {redirected}"
            done = subprocess.run(
                ["bash", "-c", script], capture_output=True, text=True, env=base_env(), check=False
            )
            assert done.returncode == 1
            assert done.stderr.startswith("mlartifacts: ")
            assert len(done.stderr.splitlines()) == 1
    script = f"{sys.executable} -m mlartifacts ls nothing 2>&-"
    assert subprocess.run(["bash", "-c", script], env=base_env(), check=False).returncode == 1


def test_names_command_no_terminal(here: Path) -> None:
    (here / "tree" / "\x1b[31mred\n").write_bytes(b"")
    terminal, end = pty.openpty()
    done = subprocess.run(command("ls", "tree"), stdout=end, env=base_env(), timeout=60, check=True)
    os.close(end)
    shown = os.read(terminal, 1000)
    os.close(terminal)
    assert b"?[31mred?\r\n" in shown
    piped = subprocess.run(
        command("ls", "tree"), stdout=subprocess.PIPE, env=base_env(), timeout=60, check=True
    )
    assert b"\x1b[31mred\n\n" in piped.stdout
    assert done.returncode == 0


def test_an_interrupt(there: str, hanging_server: Hanging) -> None:
    env = {**os.environ, "MLFLOW_S3_ENDPOINT_URL": hanging_server.url}
    with subprocess.Popen(command("ls", there), stderr=subprocess.PIPE, env=env) as process:
        wait_until(lambda: hanging_server.accepted, "a request that nobody answers")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_serve(here: Path) -> None:
    with artifact_server.serve(here, "tree") as server:
        route = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/a%20b.txt"
        with urllib.request.urlopen(route, timeout=5) as response:
            assert response.read() == b"one\n"
    assert server.process is not None
    assert "Traceback" not in server.process.tail(100)


def test_an_address_that_cannot_be_listened_on(here: Path, fails: Callable[..., list[str]]) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "already in use" in fails("serve", "tree", "--port", port)[0]
    assert len(fails("serve", "tree", "--host", "no.such.host.invalid")) == 1
    for port in ("65536", "-1", "x"):
        with pytest.raises(SystemExit) as caught:
            main(["serve", "tree", f"--port={port}"])
        assert caught.value.code == 2


def test_a_root_that_cannot_be_served(tmp_path: Path) -> None:
    done = subprocess.run(
        command("serve", "ftp://user:a-password@[bad/x"),
        capture_output=True,
        text=True,
        env=base_env(),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mlartifacts: ")
    assert len(done.stderr.splitlines()) == 1
    assert "a-password" not in done.stderr


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_server_that_is_not_installed(package: str, tmp_path: Path) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; from mlartifacts.cli import main; "
    script += f"sys.exit(main(['serve', {str(tmp_path)!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "pip install 'mlartifacts[server]'" in done.stderr


def test_the_command_is_installed() -> None:
    installed = Path(sys.executable).parent / "mlartifacts"
    said = subprocess.run([installed, "--version"], capture_output=True, timeout=60, check=True)
    assert said.stdout.decode().strip() == mlartifacts.__version__
