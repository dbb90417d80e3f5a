"""A disk of this machine that is full, or read-only: what fits lands, and nothing keeps room.

The disk is a small one in memory, which a child process mounts in a user namespace of its own: that
takes no root where a system allows such namespaces.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.servers.moto import Moto
from tests.transfer.trees import found, plant

MIB = 2**20
SMALL = {f"small/{number}": os.urandom(1000) for number in range(20)}
MOUNTS = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def run(program: str, *args: Path | str, within: Sequence[Path | str] = ()) -> str:
    """What a program prints."""
    command = [*within, sys.executable, "-c", program, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def on_a_disk_of(mib: int, program: str, disk: Path, *args: Path | str) -> str:
    """What a program prints on a machine with a small disk at `disk`, its first argument."""
    disk.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={mib}m tmpfs "$1"'
    if not shutil.which("unshare"):
        pytest.skip("no user namespaces here")
    if subprocess.run([*MOUNTS, mount, "sh", disk], capture_output=True).returncode:
        pytest.skip("no mounts in user namespaces here")
    return run(program, disk, *args, within=[*MOUNTS, f'{mount} && shift && exec "$@"', "sh", disk])


# ---- A download --------------------------------------------------------------------------

LIMITED = """
import resource, sys, mlartifacts
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000_000, 9_000_000))
try:
    mlartifacts.sync(sys.argv[1], sys.argv[2])
except mlartifacts.TransferError as error:
    (name, failure), = error.failures.items()
    print(name, failure.errno, failure.filename, sep="\\n")
"""


@pytest.mark.skipif(os.name == "nt", reason="a process can have no such limit")
def test_what_came_of_a_file_that_no_disk_takes(tmp_path: Path) -> None:
    """It would be kept for the next time if there could be one at which it fits."""
    here = plant(tmp_path / "here", {**SMALL, "large": bytes(20 * MIB)})
    there = plant(tmp_path / "there", {"large": b"old"})
    said = run(LIMITED, here, there).splitlines()
    assert said == ["large", str(errno.EFBIG), str(there / "large")]
    assert found(there) == {**SMALL, "large": b"old"}


FULL = """
import os, sys, mlartifacts
from pathlib import Path
disk, here = map(Path, sys.argv[1:])
there = disk / "there"
there.mkdir()
(there / "large").write_bytes(b"old")
try:
    mlartifacts.sync(here, there)
except mlartifacts.TransferError as error:
    (name, failure), = error.failures.items()
    print(name, failure.errno, failure.filename == str(there / name), failure)
for path in sorted(there.rglob("*")):
    if path.is_file():
        print(path.relative_to(there), path.stat().st_size)
"""


def test_files_beside_one_that_does_not_fit(tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {**SMALL, "large": bytes(40 * MIB), "fits": bytes(9 * MIB)})
    disk = tmp_path / "disk"
    first, *left = on_a_disk_of(20, FULL, disk, here).splitlines()
    assert first.startswith(f"large {errno.ENOSPC} True")
    assert f"(the disk at {disk})" in first
    assert left == sorted([f"{name} 1000" for name in SMALL] + ["large 3", f"fits {9 * MIB}"])


GIVEN_UP = """
import os, sys, mlartifacts, fsspec.callbacks
from pathlib import Path
disk, here = map(Path, sys.argv[1:])
ballast = disk / "ballast"
with ballast.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass

class TakenBack(fsspec.callbacks.Callback):
    def relative_update(self, inc=1):
        if inc <= 0 and ballast.exists():
            failed.append(True)
            ballast.unlink()

failed = []
mlartifacts.download(here, disk / "there", callback=TakenBack())
assert failed
print(*(path.name for path in (disk / "there").iterdir()))
"""


def test_room_that_was_given_up_meanwhile(tmp_path: Path) -> None:
    here = plant(tmp_path / "here", {"one": bytes(9 * MIB)})
    assert on_a_disk_of(20, GIVEN_UP, tmp_path / "disk", here) == "one\n"


# ---- A cache -----------------------------------------------------------------------------


@pytest.fixture
def bucket(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a bucket, to which `put` puts."""
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{moto_server.new_bucket()}"


def put(moto: Moto, bucket: str, tree: Mapping[str, bytes]) -> None:
    for name, data in tree.items():
        moto.request("PUT", f"/{bucket.removeprefix('s3://')}/{name}", data)


CACHE = """
import os, subprocess, sys, mlartifacts
from pathlib import Path
disk, bucket = map(str, sys.argv[1:])
os.environ["MLARTIFACTS_CACHE_DIR"] = f"{disk}/cache"
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

def child(names):
    program = "import sys, mlartifacts; [mlartifacts.cached(each) for each in sys.argv[1:]]"
    uris = [f"{bucket}/{name}" for name in names]
    subprocess.run([sys.executable, "-c", program, *uris], check=True)

def there():
    return sorted(path.name for path in Path(disk).glob("cache/*/entries/*/*/files/*"))
"""

EVICTS = (
    CACHE
    + """
child(["old", "older", "new"])
mine = mlartifacts.cached(f"{bucket}/old")
got = mlartifacts.cached(f"{bucket}/large")
print(got.stat().st_size, mine.exists(), *there())
try:
    mlartifacts.cached(f"{bucket}/too-large")
except mlartifacts.TransferError as error:
    print(error.failures[""].errno, got.exists(), mine.exists(), *there())
with open(f"{disk}/ballast", "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
print(mlartifacts.cached(f"{bucket}/large") == got)
"""
)


def test_a_cache_on_a_full_disk(moto_server: Moto, bucket: str, tmp_path: Path) -> None:
    """It is far from its bound; what nobody has goes, the least recently used first."""
    tree = {name: bytes(5 * MIB) for name in ("old", "older", "new")}
    put(moto_server, bucket, {**tree, "large": bytes(9 * MIB), "too-large": bytes(20 * MIB)})
    said = on_a_disk_of(20, EVICTS, tmp_path / "disk", bucket).splitlines()
    assert said == [
        f"{9 * MIB} True large old",
        f"{errno.ENOSPC} True True large old",
        "True",
    ]


READ_ONLY = (
    CACHE
    + """
child(["known", "tree"])
# As the layers of an image keep them.
for path in Path(disk).rglob("*"):
    os.utime(path, (0, int(path.stat().st_mtime)))
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
print(len(mlartifacts.cached(f"{bucket}/known").read_bytes()))
print((mlartifacts.cached(f"{bucket}/tree") / "a" / "b").read_text())
for name in "unknown", "changed":
    if name == "changed":
        with mlartifacts.open(f"{bucket}/known", "wb") as file:
            file.write(b"another")
        name = "known"
    try:
        mlartifacts.cached(f"{bucket}/{name}")
    except OSError as error:
        print(error.errno, error.filename, error)
os.environ["MLARTIFACTS_CACHE_DIR"] = f"{disk}/other"
try:
    mlartifacts.cached(f"{bucket}/known")
except OSError as error:
    print(error.errno, error.filename, error)
"""
)


def test_a_cache_that_is_read_only(moto_server: Moto, bucket: str, tmp_path: Path) -> None:
    put(moto_server, bucket, {"known": b"known", "unknown": b"?", "tree/a/b": b"inside"})
    disk = tmp_path / "disk"
    known, tree, *refused = on_a_disk_of(20, READ_ONLY, disk, bucket).splitlines()
    assert (known, tree) == ("5", "inside")
    roots = [f"{disk}/cache/cached-1"] * 2 + [f"{disk}/other/cached-1"]
    for line, root in zip(refused, roots, strict=True):
        assert line.startswith(f"{errno.EROFS} {root} ")
        assert "read-only" in line
        assert "MLARTIFACTS_CACHE_DIR" in line
