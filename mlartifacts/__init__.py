"""Every MLflow artifact URI as an ordinary fsspec filesystem and path.

>>> import mlartifacts
>>> with mlartifacts.open("/tmp/mlartifacts-doc/note.txt", "w") as file:
...     _ = file.write("read where it lies")
>>> mlartifacts.open("file:/tmp/mlartifacts-doc/note.txt", "r").open().read()
'read where it lies'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlartifacts.access import (
        filesystem,
        locate,
        open,
        open_files,
        resolve,
        to_url,
        url_to_fs,
    )
    from mlartifacts.errors import (
        ArtifactError,
        InvalidConfig,
        InvalidURI,
        MissingDriver,
        TransferError,
        UnknownScheme,
        Unresolved,
    )
    from mlartifacts.location import Location
    from mlartifacts.registry import register, schemes, unregister
    from mlartifacts.transfer.cache import cached
    from mlartifacts.transfer.operations import Report, copy, delete, download, sync, upload

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "InvalidConfig",
    "InvalidURI",
    "Location",
    "MissingDriver",
    "Report",
    "TransferError",
    "UnknownScheme",
    "Unresolved",
    "cached",
    "copy",
    "delete",
    "download",
    "filesystem",
    "locate",
    "open",
    "open_files",
    "register",
    "resolve",
    "schemes",
    "sync",
    "to_url",
    "unregister",
    "upload",
    "url_to_fs",
]

# Importing the package imports nothing else: a name is fetched from its module when it is
# first used.
_ROOMS = {
    "access": "filesystem locate open open_files resolve to_url url_to_fs",
    "errors": "ArtifactError InvalidConfig InvalidURI MissingDriver TransferError"
    " UnknownScheme Unresolved",
    "location": "Location",
    "registry": "register schemes unregister",
    "transfer.cache": "cached",
    "transfer.operations": "Report copy delete download sync upload",
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
