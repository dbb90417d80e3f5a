"""A disk that fills up in the middle of a write or a download: an error, and nothing half-written.

It happens in a child process, whose files may not grow beyond a megabyte: to a program that is the
same as a full disk, and needs neither a disk nor root.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import errno, resource, signal, sys
import mlartifacts

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
source, target, how = sys.argv[1:]
fs, path = mlartifacts.url_to_fs(target)
try:
    if how == "write":
        with mlartifacts.open(target, "wb") as file:
            for _ in range(30):
                file.write(bytes(100_000))
    elif how == "text":
        with mlartifacts.open(target, "w") as file:
            file.write("x" * 3_000_000)
    elif how == "pipe":
        fs.pipe_file(path, bytes(3_000_000))
    elif how == "copy":
        fs.cp_file(source, path)
    elif how == "get":
        fs.get_file(source, path)
    elif how == "put":
        fs.put_file(source, path)
except OSError as error:
    assert error.filename, "names the file"
    sys.exit(error.errno)
sys.exit("nothing was raised")
"""


@pytest.mark.parametrize("how", ["write", "text", "pipe", "copy", "get", "put"])
@pytest.mark.parametrize("there", [True, False], ids=["old", "new"])
def test_full_disk(tmp_path: Path, how: str, there: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3_000_000))
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, target, how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == errno.EFBIG, done.stderr
    left = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    assert left == ({"target": b"old"} if there else {})
