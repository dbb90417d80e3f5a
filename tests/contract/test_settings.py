"""Settings: whose win, when they take effect, and what of them is never shown."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import mlartifacts
from mlartifacts.registry import store_of
from tests.contract.stores import Harbour, set_for


def shown(harbour: Harbour, fs: Any, root: str) -> dict[str, str]:
    """Everything that is shown of a place."""
    path = f"{root}/file"
    opened = mlartifacts.open(harbour.uri("file"), **harbour.options)
    signed = harbour.signed(harbour.uri("file"))
    with mlartifacts.open(signed, **harbour.options) as file:
        texts = {"repr of a file": repr(file), "str of a file": str(file)}
    return texts | {
        "repr": repr(fs),
        "str": str(fs),
        "json": fs.to_json(),
        "dict": repr(fs.to_dict()),
        "options": repr(fs.storage_options),
        "pickle": pickle.dumps(fs).decode("latin-1"),
        "pickle of a file": pickle.dumps(opened).decode("latin-1"),
        "repr of an open file": repr(mlartifacts.open(signed, **harbour.options)),
        "full name": str(opened.full_name),
        "location": repr(mlartifacts.locate(signed, **harbour.options)),
        "pickle of a location": pickle.dumps(
            mlartifacts.locate(harbour.uri("file"), **harbour.options)
        ).decode("latin-1"),
        "unstripped": fs.unstrip_protocol(path),
        "path": root,
        "info": repr(fs.info(path)),
        "ls": repr(fs.ls(root, detail=True)),
    }


def test_no_secret_is_shown(harbour: Harbour, fs: Any, root: str) -> None:
    harbour.seed({"file": b"x"})
    for what, text in shown(harbour, fs, root).items():
        for secret in harbour.secrets:
            assert secret not in text, what


def test_no_secret_is_in_errors(harbour: Harbour, fs: Any, root: str) -> None:
    for act in (fs.cat_file, fs.info, fs.ls):
        with pytest.raises(FileNotFoundError) as caught:
            act(harbour.signed(f"{root}/missing"))
        error: BaseException | None = caught.value
        while error is not None:
            for secret in harbour.secrets:
                assert secret not in f"{error} {error!r} {vars(error)}"
            error = error.__cause__ or error.__context__


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that is logged, with every logger there is at its most talkative."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raised = "".join(traceback.format_exception(*record.exc_info or (None,) * 3))
            texts.append(f"{record.name}: {record.getMessage()} {record.args} {raised}")

    loggers = [logging.root]
    loggers += [each for each in logging.root.manager.loggerDict.values() if hasattr(each, "level")]
    before = [(each, each.level, each.disabled, each.propagate) for each in loggers]
    for each in loggers:
        each.setLevel(logging.DEBUG)
        each.disabled, each.propagate = False, True
    handler = Keep()
    logging.root.addHandler(handler)
    yield texts
    logging.root.removeHandler(handler)
    for each, level, disabled, propagate in before:
        each.setLevel(level)
        each.disabled, each.propagate = disabled, propagate


def test_no_secret_is_logged(
    harbour: Harbour, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harbour.seed({"seeded": b"x"})
    more = harbour.more_secrets(monkeypatch)
    logged.clear()
    fs, root = mlartifacts.url_to_fs(harbour.base, **harbour.options)
    if harbour.writable:
        fs.pipe_file(f"{root}/piped", b"x")
        with fs.open(f"{root}/opened", "wb") as file:
            file.write(b"x" * 6 * 2**20)
        fs.cp_file(f"{root}/piped", f"{root}/copied")
        fs.rm(f"{root}/opened")
        assert fs.cat_file(f"{root}/piped") == b"x"
    else:
        assert fs.cat_file(harbour.signed(f"{root}/seeded")) == b"x"
        assert fs.open(harbour.signed(f"{root}/seeded")).read() == b"x"
    assert fs.ls(root)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(harbour.signed(f"{root}/missing"))
    for secret in (*harbour.secrets, *more):
        assert not [text for text in logged if secret in text]


@pytest.mark.remote
def test_a_changed_variable_takes_effect_at_the_next_open(
    harbour: Harbour, fs: Any, root: str, refused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = store_of(harbour.scheme).variables
    assert variables, "the store says which variables it reads"
    harbour.seed({"file": b"x"})
    assert fs.cat_file(f"{root}/file") == b"x"
    again, _ = mlartifacts.url_to_fs(harbour.base, **harbour.options)
    assert again is fs
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "77")
        changed, _ = mlartifacts.url_to_fs(harbour.base, **harbour.options)
        assert changed is not fs
        assert changed.cat_file(f"{root}/file") == b"x"
    place = harbour.elsewhere("127.0.0.1", refused_port)
    if place.env:
        with set_for(place, monkeypatch), pytest.raises(ConnectionError):
            mlartifacts.open(harbour.uri("file"), **harbour.options).open().read()
    back, _ = mlartifacts.url_to_fs(harbour.base, **harbour.options)
    assert back.cat_file(f"{root}/file") == b"x"


@pytest.mark.remote
def test_how_long_a_silent_server_is_waited_for(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's defaults, and what its variable says, in the driver as it was made."""
    harbour.seed({"file": b"x"})
    for said, patience in ((None, harbour.patience), ("77", 77), ("-1", None)):
        if said is not None:
            monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", said)
        fs, root = mlartifacts.url_to_fs(harbour.base, **harbour.options)
        assert fs.cat_file(f"{root}/file") == b"x"
        assert harbour.waits(fs) == patience, said


@pytest.mark.remote
def test_an_option_beats_the_uri_and_the_environment(
    harbour: Harbour, refused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the URI or the environment says is wrong; the caller's options put it right."""
    harbour.seed({"file": b"x"})
    if not harbour.rescue:
        return  # nothing in its URIs or variables can be said by an option instead
    place = harbour.elsewhere("127.0.0.1", refused_port)
    with set_for(place, monkeypatch) as options:
        uri = harbour.uri("file") if place.env else f"{harbour.at(refused_port)}/file"
        with mlartifacts.open(uri, **{**harbour.options, **options, **harbour.rescue}) as file:
            assert file.read() == b"x"


# ---- Chains and registration -------------------------------------------------------------


def test_cache_chain(harbour: Harbour, tmp_path: Any) -> None:
    harbour.seed({harbour.cut: b"data"})
    options = {**harbour.options, "simplecache": {"cache_storage": str(tmp_path / "cache")}}
    uri = f"simplecache::{harbour.uri(harbour.cut)}"
    for _ in range(2):
        with mlartifacts.open(uri, **options) as file:
            assert file.read() == b"data"
    assert [path.read_bytes() for path in (tmp_path / "cache").iterdir()] == [b"data"]


@pytest.mark.writes
def test_write_through_a_cache_chain(harbour: Harbour, tmp_path: Any) -> None:
    harbour.seed({"file": b"old"})
    options = {**harbour.options, "simplecache": {"cache_storage": str(tmp_path / "cache")}}
    uri = f"simplecache::{harbour.uri('file')}"
    with pytest.raises(ZeroDivisionError), mlartifacts.open(uri, "wb", **options) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert harbour.stored() == {"file": b"old"}
    with mlartifacts.open(uri, **options) as file:
        assert file.read() == b"old"
    with mlartifacts.open(uri, "wt", **options) as file:
        file.write("new")
    assert harbour.stored() == {"file": b"new"}
    with mlartifacts.open(uri, **options) as file:
        assert file.read() == b"new"


def test_archive_chain(harbour: Harbour) -> None:
    import zipfile

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("inner/name.txt", b"inside")
    harbour.seed({"model.zip": archive.getvalue()})
    uri = f"zip://inner/name.txt::{harbour.uri('model.zip')}"
    with mlartifacts.open(uri, **harbour.options) as file:
        assert file.read() == b"inside"


def test_registered(harbour: Harbour, registered: None, tmp_path: Any) -> None:
    """Plain fsspec does what `mlartifacts.open` does."""
    harbour.seed({"file": b"data"})
    uri = harbour.uri("file")
    with fsspec.open(uri, **harbour.options) as file:
        assert file.read() == b"data"
    fs, path = fsspec.url_to_fs(uri, **harbour.options)
    ours, same = mlartifacts.url_to_fs(uri, **harbour.options)
    assert (type(fs), path) == (type(ours), same)
    assert fs == ours
    assert fs.cat_file(uri) == b"data"
    if harbour.writable:
        with fsspec.open(harbour.uri("written"), "w", **harbour.options) as file:
            file.write("there")
        with pytest.raises(ZeroDivisionError):
            with fsspec.open(harbour.uri("failed"), "w", **harbour.options) as file:
                file.write("there")
                raise ZeroDivisionError
        assert harbour.stored() == {"file": b"data", "written": b"there"}
    chained = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
    chained[harbour.scheme] = harbour.options
    with fsspec.open(f"simplecache::{uri}", **chained) as file:
        assert file.read() == b"data"


#: Schemes that nobody but MLflow speaks: fsspec knows them by entry points.
MLFLOWS_ALONE = ("wasbs", "wasb", "viewfs", "runs", "models", "mlflow-artifacts")


def test_unregistered(harbour: Harbour) -> None:
    """Without `register` a scheme means what it meant: fsspec's own class, or MLflow's alone."""
    ours = type(mlartifacts.filesystem(harbour.base, **harbour.options))
    try:
        plain = fsspec.get_filesystem_class(harbour.scheme)
    except ValueError:
        assert harbour.scheme == "ftps"  # fsspec has none
    else:
        assert (plain is ours) is (harbour.scheme in MLFLOWS_ALONE)
    mlartifacts.register()
    assert fsspec.get_filesystem_class(harbour.scheme) is ours
    mlartifacts.register()
    mlartifacts.unregister()
    mlartifacts.unregister()
    try:
        assert fsspec.get_filesystem_class(harbour.scheme) is plain
    except ValueError:
        assert harbour.scheme == "ftps"


def test_mlflow_alone_schemes_need_no_import(harbour: Harbour, tmp_path: Any) -> None:
    """Entry points: plain fsspec in a process that never imported this package."""
    if harbour.scheme not in ("wasbs", "viewfs"):
        return
    import subprocess
    import sys

    harbour.seed({"file": b"data"})
    program = (
        "import sys, fsspec\n"
        "with fsspec.open(sys.argv[1]) as f: assert f.read() == b'data'\n"
        "with fsspec.open('simplecache::' + sys.argv[1], simplecache="
        "{'cache_storage': sys.argv[2]}) as f: assert f.read() == b'data'\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, harbour.uri("file"), str(tmp_path / "cache")],
        check=True,
        timeout=60,
    )


def test_no_login_of_a_netrc_is_sent(harbour: Harbour, fs: Any, root: str) -> None:
    """One for every host, beside what is signed."""
    harbour.seed({"file": b"x"})
    netrc = Path.home() / ".netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    assert fs.cat_file(f"{root}/file") == b"x"
    if harbour.writable:
        fs.pipe_file(f"{root}/other", b"y")
        assert fs.cat_file(f"{root}/other") == b"y"  # Azure's own client would read it
