"""Files moved and verified, in this process."""

from __future__ import annotations

from collections.abc import Iterable

from mlartifacts.transfer.engine import Engine
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.trees import End, File
from mlartifacts.transfer.verify import verify

__all__ = ["move"]


def move(
    source: End, target: End, files: Iterable[File], progress: Progress, resume: bool
) -> dict[str, Exception]:
    """Move files, and look whether they arrived.

    Returns
    -------
    dict of str to Exception
        The files that did not, by name.
    """
    engine = Engine(source, target, progress, resume)
    moved, failures = engine.run({file.name: file for file in files})
    return failures | verify(source, target, [(each.file.name, each) for each in moved])
