"""What runs in other processes: imported there, so it imports no test."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping


def read_pickled(pickled: bytes) -> bytes:
    """Unpickle a filesystem and a path, or an `OpenFile`, and read."""
    thing = pickle.loads(pickled)
    if isinstance(thing, tuple):
        fs, path = thing
        data: bytes = fs.cat_file(path)
        return data
    with thing as file:
        opened: bytes = file.read()
        return opened


def write_pickled(pickled: bytes, data: bytes) -> None:
    """Unpickle a filesystem and a path, and write."""
    fs, path = pickle.loads(pickled)
    with fs.open(path, "wb") as file:
        file.write(data)


def read_json(described: str, path: str) -> bytes:
    """Make a filesystem from what `to_json` said, and read."""
    from fsspec import AbstractFileSystem

    data: bytes = AbstractFileSystem.from_json(described).cat_file(path)
    return data


def set_environment(values: Mapping[str, str], prefixes: tuple[str, ...]) -> None:
    """Take over the test's variables, in a worker that was started before it."""
    for name in list(os.environ):
        if name.startswith(prefixes):
            del os.environ[name]
    os.environ.update(values)
