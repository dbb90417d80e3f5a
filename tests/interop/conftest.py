"""The contract's stores, for tests of other libraries on them."""

from __future__ import annotations

import pytest

from tests.contract.conftest import (
    fs,
    harbour,
    located,
    proxy_on_s3,
    registered,
    root,
    tracked_locally,
    tracked_on_s3,
)
from tests.contract.stores import HARBOURS

__all__ = [
    "fs",
    "harbour",
    "located",
    "proxy_on_s3",
    "registered",
    "root",
    "stores",
    "tracked_locally",
    "tracked_on_s3",
]


def stores(*names: str):
    """Run a test on these stores; on every writable one if none is named."""
    chosen = [each for each in HARBOURS if (each.name in names if names else each.writable)]
    assert len(chosen) >= len(names)
    return pytest.mark.parametrize(
        "harbour",
        [pytest.param(h, id=h.name) for h in chosen],
        indirect=True,
    )
