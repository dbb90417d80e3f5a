"""The contract's stores, several in one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.conftest import proxy_on_s3, tracked_locally, tracked_on_s3
from tests.contract.stores import HARBOURS, Harbour

__all__ = ["proxy_on_s3", "tracked_locally", "tracked_on_s3"]

NAMED = {harbour.name: harbour for harbour in HARBOURS}


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Harbour]:
    """Give a store by its name, with its server up and its variables set."""

    def open_(name: str) -> Harbour:
        harbour = NAMED[name](request.getfixturevalue(NAMED[name].fixture), Path.home())
        for variable, value in harbour.env.items():
            monkeypatch.setenv(variable, value)
        return harbour

    return open_
