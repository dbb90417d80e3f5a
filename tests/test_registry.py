"""Which store serves which scheme, and what fsspec is told."""

from __future__ import annotations

import configparser
from importlib.metadata import entry_points
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry, known_implementations

import mlartifacts
from mlartifacts.registry import store_of
from mlartifacts.store import Store

ROOT = Path(__file__).parent.parent
#: Schemes that MLflow alone speaks, entered for every process.
ENTERED = {"mlflow-artifacts", "mlflowartifacts", "models", "runs", "viewfs", "wasb", "wasbs"}
PLAIN = ENTERED - {"viewfs"} | {"http", "https"}


@pytest.fixture
def registered():
    mlartifacts.register()
    yield
    mlartifacts.unregister()


@pytest.mark.parametrize("scheme", mlartifacts.schemes())
def test_every_scheme_has_a_store_that_knows_it(scheme):
    store = store_of(scheme)
    assert isinstance(store, Store)
    assert scheme in store.schemes
    assert store.filesystem_class().store is store


def test_every_scheme_of_a_store_is_in_the_table():
    served = {scheme for name in mlartifacts.schemes() for scheme in store_of(name).schemes}
    assert served - {""} == set(mlartifacts.schemes())


def test_unknown_schemes_list_the_known():
    with pytest.raises(mlartifacts.UnknownScheme, match="'s4'.*gs.*s3"):
        mlartifacts.locate("s4://bucket/key")


def test_entry_points_name_the_class_of_each_scheme():
    """setup.cfg must name classes, so it repeats the table: this holds the two together."""
    named = {
        point.name: point.value
        for point in entry_points(group="fsspec.specs")
        if point.dist is not None and point.dist.name == "mlartifacts"
    }
    expected = {
        f"mlartifacts+{scheme}": store_of(scheme).filesystem
        for scheme in mlartifacts.schemes()
        if scheme not in PLAIN
    } | {scheme: store_of(scheme).filesystem for scheme in ENTERED}
    # Of the web's, the alias is that of MLflow's proxy.
    proxy = store_of("mlflow-artifacts").filesystem
    assert named == expected | {"mlartifacts+http": proxy, "mlartifacts+https": proxy}


def test_every_extra_that_a_store_names_installs_its_driver():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for scheme in mlartifacts.schemes():
        store = store_of(scheme)
        if store.extra:
            assert store.package in extras[store.extra]
            assert store.extra in extras["all"]
    assert setup["options"]["install_requires"].split() == ["fsspec>=2026.9", "platformdirs"]


def test_unregistered_schemes_keep_their_meaning():
    assert fsspec.get_filesystem_class("file").__module__ == "fsspec.implementations.local"
    assert fsspec.get_filesystem_class("s3").__module__ == "s3fs.core"


def test_register_and_unregister(registered):
    mlartifacts.register()  # a second time changes nothing
    for scheme in mlartifacts.schemes():
        assert fsspec.get_filesystem_class(scheme) is store_of(scheme).filesystem_class()
    mlartifacts.unregister()
    assert fsspec.get_filesystem_class("file").__module__ == "fsspec.implementations.local"
    assert fsspec.get_filesystem_class("s3").__module__ == "s3fs.core"
    with pytest.raises(ValueError, match="r2"):
        fsspec.get_filesystem_class("r2")


def test_only_what_an_extra_installs_is_named(registered):
    for scheme in mlartifacts.schemes():
        said = known_implementations[scheme]["err"]
        extra = store_of(scheme).extra
        assert ("pip install" in said) is bool(extra), said
        assert f"'mlartifacts[{extra}]'" in said or not extra


def test_unregister_leaves_what_was_registered_since(registered):
    from fsspec.implementations.memory import MemoryFileSystem

    fsspec.register_implementation("r2", MemoryFileSystem, clobber=True)
    fsspec.register_implementation("b2", "fsspec.implementations.memory.MemoryFileSystem", True)
    mlartifacts.unregister()
    try:
        assert fsspec.get_filesystem_class("r2") is MemoryFileSystem
        assert fsspec.get_filesystem_class("b2") is MemoryFileSystem
        assert fsspec.get_filesystem_class("s3").__module__ == "s3fs.core"
    finally:
        for table in (known_implementations, _registry):
            for scheme in ("r2", "b2"):
                table.pop(scheme, None)


def test_a_third_party_store_that_cannot_be_loaded_is_left_out(tmp_path, monkeypatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mlartifacts.stores]\nbroken = no_such_module:STORE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.warns(RuntimeWarning, match="broken://.*no_such_module"):
            mlartifacts.register()
        assert fsspec.get_filesystem_class("wasbs") is store_of("wasbs").filesystem_class()
        assert fsspec.get_filesystem_class("s3") is store_of("s3").filesystem_class()
    finally:
        mlartifacts.unregister()


def test_unregister_alone_does_nothing():
    before = dict(known_implementations)
    mlartifacts.unregister()
    assert known_implementations == before
