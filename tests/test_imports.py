"""What importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

DRIVERS = {"s3fs", "botocore", "gcsfs", "adlfs", "azure", "sshfs", "asyncssh", "pyarrow"} | {
    "hdfs_native", "aiohttp", "pandas", "mlflow", "requests", "ftplib", "ssl"
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_imports_one_module_more_than_fsspec_does():
    ours = modules_after("import fsspec, mlartifacts") - modules_after("import fsspec")
    assert {name for name in ours if not name.startswith("mlartifacts")} == set()
    assert ours == {"mlartifacts"}


def test_locating_imports_no_driver():
    uris = [
        *("s3://b/k", "gs://b/k", "sftp://h/k", "ftp://h/k", "hdfs://h/k", "/tmp/x"),
        *("wasbs://c@acct.blob.core.windows.net/k", "https://h/k"),
    ]
    statement = f"import mlartifacts; [mlartifacts.locate(uri) for uri in {uris!r}]"
    loaded = {name.split(".")[0] for name in modules_after(statement)}
    assert loaded & DRIVERS == set()


BARE = '''
import sys, tempfile

class Bare:
    """Finds what is there after `pip install mlartifacts`."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*sys.stdlib_module_names, "fsspec", "mlartifacts"}:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
import mlartifacts

folder = tempfile.mkdtemp()
with mlartifacts.open(f"{folder}/x", "w") as file:
    file.write("x")
fs, path = mlartifacts.url_to_fs(f"file://{folder}/x")
assert fs.cat_file(path) == b"x"
for uri in ("ftp://h/k", "ftps://h/k", "runs:/r/k", "models:/m/1"):
    mlartifacts.url_to_fs(uri)
for extra, uris in {
    "s3": ("s3://b/k", "s3a://b/k", "r2://b@h/k", "b2://b@h/k"),
    "gcs": ("gs://b/k", "gcs://b/k"),
    "azure": ("wasbs://c@acct.blob.core.windows.net/k", "abfss://c@acct.dfs.core.windows.net/k"),
    "sftp": ("sftp://h/k", "ssh://h/k"),
    "hdfs": ("hdfs://h/k", "viewfs://h/k"),
    "http": ("http://h/k", "https://h/k"),
}.items():
    for uri in uris:
        mlartifacts.locate(uri)
        for act in (mlartifacts.url_to_fs, mlartifacts.open, mlartifacts.filesystem):
            try:
                act(uri)
            except mlartifacts.MissingDriver as error:
                assert f"pip install 'mlartifacts[{extra}]'" in str(error), error
            else:
                raise AssertionError(uri)
'''


def test_without_extras_there_are_files_and_ftp_and_a_command_for_the_rest():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "extra", "uri"),
    [
        ("adlfs", "azure", "wasbs://c@acct.blob.core.windows.net/k"),
        ("gcsfs", "gcs", "mlartifacts+gs://b/k"),
        ("s3fs", "s3", "mlartifacts+s3://b/k"),
        ("sshfs", "sftp", "mlartifacts+sftp://h/k"),
        ("aiohttp", "http", "mlflow-artifacts://h/k"),
    ],
)
def test_plain_fsspec_shows_the_command(package, extra, uri):
    code = f"import sys, fsspec; sys.modules[{package!r}] = None; fsspec.open({uri!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert f"MissingDriver: The package '{package}' is needed here" in done.stderr
    assert f"pip install 'mlartifacts[{extra}]'" in done.stderr


def test_every_public_name_is_there():
    import mlartifacts

    for name in mlartifacts.__all__:
        assert getattr(mlartifacts, name).__doc__
    assert dir(mlartifacts) == sorted(mlartifacts.__all__)
