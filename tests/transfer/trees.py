"""Trees of files to be moved."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path


def odd_tree(files: int = 24, large: int = 12_000_000) -> dict[str, bytes]:
    """Empty, short and odd files, in deep folders, and a large one that comes in ranges."""
    rng = random.Random(23)
    tree = {
        "empty": b"",
        "one byte": b"1",
        "a+b [1]*.txt": b"a pattern to some",
        "ünï/日本.txt": b"text",
        "deep/er/and/deeper/file": b"deep",
        "foo/a": b"sibling",
        "foobar": b"of foo",
        "large.bin": rng.randbytes(large),
    }
    for number in range(files - len(tree)):
        tree[f"many/{number % 5}/file {number}"] = rng.randbytes(number * 37)
    return tree


def plant(folder: Path, tree: Mapping[str, bytes]) -> Path:
    """Write files that pass for a minute old: the time of a new one tells little."""
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (time.time() - 60,) * 2)
    return folder


def found(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
