"""Every test that asks for a ``harbour`` runs once on each store; ids read ``test_x[s3]``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlartifacts
from tests.contract.stores import HARBOURS, Harbour, Tracked

#: What a login, or the server behind the same code, can break: the tests that run on siblings.
CORE = frozenset(
    {
        # Reading and listing
        "test_whole_file",
        "test_random_reads_and_seeks",
        "test_cat_ranges_are_slices",
        "test_a_file_that_is_replaced_while_it_is_read",
        "test_get",
        "test_name_is_read_as_it_is",
        "test_exists_isfile_and_isdir",
        "test_find",
        "test_info_agrees_with_ls",
        "test_a_directory_with_nothing_in_it",
        "test_sizes_and_times",
        "test_unstrip_protocol_gives_an_uri",
        # Writing, moving and deleting
        "test_write_and_read_back",
        "test_interrupt_leaves_what_was",
        "test_garbage_collected_write_leaves_what_was",
        "test_append",
        "test_exclusive",
        "test_copy",
        "test_put",
        "test_put_directory_to_new_directory",
        "test_mv_a_tree",
        "test_rm_of_a_tree",
        "test_rm_of_nothing",
        # Errors
        "test_forbidden",
        "test_missing_by_uri",
        "test_no_host",
        "test_root_that_is_not_there",
        "test_server_down",
        "test_wrong_credentials",
        # Settings and secrets
        "test_an_option_beats_the_uri_and_the_environment",
        "test_a_changed_variable_takes_effect_at_the_next_open",
        "test_how_long_a_silent_server_is_waited_for",
        "test_no_secret_is_in_errors",
        "test_no_secret_is_logged",
        "test_no_secret_is_shown",
        # Threads, loops and processes
        "test_asynchronously",
        "test_threads_that_read_and_write",
        "test_spawned_process",
        "test_dask_workers",
    }
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--store", action="append", help="only this store (an id of the contract)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "writes: not for stores that are read only")
    config.addinivalue_line("markers", "remote: not for stores without a server")
    config.addinivalue_line("markers", "over_http: for stores that are asked over HTTP")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen_by_itself = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "harbour" not in metafunc.fixturenames or "harbour" in chosen_by_itself:
        return
    asked = metafunc.config.getoption("--store", default=None)
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    name = metafunc.definition.originalname
    chosen = [
        pytest.param(harbour, id=harbour.name)
        for harbour in HARBOURS
        if (not asked or harbour.name in asked)
        and (name in CORE or not harbour.sibling)
        and (harbour.patterns or not name.endswith("_glob_edge_cases"))
        and (harbour.writable or "writes" not in marks)
        and (harbour.remote or "remote" not in marks)
        and (harbour.over_http or "over_http" not in marks)
    ]
    metafunc.parametrize("harbour", chosen, indirect=True)


@pytest.fixture
def harbour(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _own_environment: None
) -> Harbour:
    """A store with its server up, its variables set, and a fresh base."""
    harbour: Harbour = request.param(request.getfixturevalue(request.param.fixture), Path.home())
    for name, value in harbour.env.items():
        monkeypatch.setenv(name, value)
    return harbour


@pytest.fixture
def tracked_locally(mlflow_server: Any, tmp_path: Path) -> Tracked:
    return Tracked(mlflow_server, tmp_path)


@pytest.fixture
def tracked_on_s3(mlflow_server: Any, moto_server: Any) -> Tracked:
    return Tracked(mlflow_server, moto_server)


@pytest.fixture
def proxy_on_s3(mlflow_server_proxying_s3: Any, moto_server: Any) -> tuple[Any, Any]:
    return mlflow_server_proxying_s3, moto_server


@pytest.fixture
def located(harbour: Harbour) -> tuple[Any, str]:
    return mlartifacts.url_to_fs(harbour.base, **harbour.options)


@pytest.fixture
def fs(located: tuple[Any, str]) -> Any:
    """The store's filesystem."""
    return located[0]


@pytest.fixture
def root(located: tuple[Any, str]) -> str:
    """The path of the harbour's base in `fs`."""
    return located[1]


@pytest.fixture
def registered() -> Iterator[None]:
    """The standard schemes routed through this package."""
    mlartifacts.register()
    yield
    mlartifacts.unregister()


def _case(item: pytest.Function, harbour: str) -> str:
    """What is between the brackets of a test's id, without the harbour's name."""
    case = item.callspec.id if hasattr(item, "callspec") else ""
    return case.removeprefix(harbour).removesuffix(harbour).strip("-")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a harbour's own version of a test where its ``exceptions`` name the test."""
    harbour = pyfuncitem.funcargs.get("harbour")
    if not isinstance(harbour, Harbour):
        return None
    name = pyfuncitem.originalname
    if not {name, f"{name}[{_case(pyfuncitem, harbour.name)}]"} & harbour.exceptions.keys():
        return None
    override = getattr(harbour, name)
    wanted = inspect.signature(override).parameters
    override(**{fixture: pyfuncitem.funcargs[fixture] for fixture in wanted})
    return True
