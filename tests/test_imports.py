"""What importing the package costs."""

from __future__ import annotations

import subprocess
import sys

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


def test_every_public_name_is_there():
    import mlartifacts

    for name in mlartifacts.__all__:
        assert getattr(mlartifacts, name).__doc__
    assert dir(mlartifacts) == sorted(mlartifacts.__all__)
