"""Which tests run on one worker, so that a server that takes long to start is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.stores import HARBOURS

#: The beginnings of the names of such servers' fixtures. A test of two groups is in the first.
GROUPS = {
    "mlflow": ("mlflow_server", "tracked_locally", "tracked_on_s3", "proxy_on_s3"),
    "hdfs": ("hdfs",),
}
_STORES = {harbour.name: harbour.fixture for harbour in HARBOURS}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        fixtures = list(_fixtures_of(item))
        for group, servers in GROUPS.items():
            if any(fixture.startswith(servers) for fixture in fixtures):
                item.add_marker(pytest.mark.xdist_group(group))
                break


def _fixtures_of(item: pytest.Item) -> Iterator[str]:
    """Yield the fixtures that a test asks for, and those of the stores that it names.

    It names them by its parameters, or in its code: ``opened("hdfs")``. Code that runs on every
    store may compare these with a name.
    """
    yield from getattr(item, "fixturenames", ())
    if not isinstance(item, pytest.Function):
        return
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    named = [getattr(value, "name", value) for value in parameters.values()]
    if "harbour" not in parameters:
        named += _flat(item.function.__code__.co_consts)
    yield from (_STORES[name] for name in named if isinstance(name, str) and name in _STORES)


def _flat(constants: tuple[object, ...]) -> Iterator[object]:
    """Yield constants, and those in tuples of them."""
    for constant in constants:
        if isinstance(constant, tuple):
            yield from _flat(constant)
        else:
            yield constant
