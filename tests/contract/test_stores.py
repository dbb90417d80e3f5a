"""The table of stores itself: its exceptions name tests that there are, and say what happens."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import mlartifacts
from mlartifacts.registry import store_of
from tests import contract
from tests.contract.conftest import CORE
from tests.contract.stores import HARBOURS, Harbour


def names_of_tests() -> set[str]:
    found: set[str] = set()
    for module in pkgutil.iter_modules(contract.__path__):
        if module.name.startswith("test_"):
            scope = importlib.import_module(f"{contract.__name__}.{module.name}")
            found |= set(vars(scope))
            for value in vars(scope).values():
                if isinstance(value, type) and value.__name__.startswith("Test"):
                    found |= set(dir(value))
    return {name for name in found if name.startswith("test_")}


@pytest.mark.parametrize("harbour_class", HARBOURS, ids=lambda each: each.name)
def test_each_exception_has_a_test_a_reason_and_a_method(harbour_class: type[Harbour]) -> None:
    known = names_of_tests()
    for key, reason in harbour_class.exceptions.items():
        name = key.partition("[")[0]
        assert name in known, key
        assert reason
        assert callable(getattr(harbour_class, name)), key


def test_every_store_has_a_harbour() -> None:
    schemes = {harbour.scheme for harbour in HARBOURS}
    served = {store_of(scheme) for scheme in mlartifacts.schemes()}
    assert served == {store_of(scheme) for scheme in schemes}


def test_what_runs_on_siblings_are_tests() -> None:
    assert names_of_tests() >= CORE
    patterns = [harbour.scheme for harbour in HARBOURS if harbour.patterns and not harbour.sibling]
    kinds = [mlartifacts.filesystem(f"{scheme}://host/a").async_impl for scheme in patterns]
    assert sorted(kinds) == [False, True]
