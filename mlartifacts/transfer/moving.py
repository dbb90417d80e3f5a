"""Files moved and verified, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlartifacts.transfer.engine import Engine
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.trees import End, File
from mlartifacts.transfer.verify import Short, verify

__all__ = ["move"]


def move(
    source: End, target: End, files: Iterable[File], progress: Progress, resume: bool
) -> dict[str, Exception]:
    """Move files, and look whether they arrived; what did not in full is moved once more.

    Returns
    -------
    dict of str to Exception
        The files that did not, by name.
    """
    by_name = {file.name: file for file in files}
    failures = _once(source, target, by_name, progress, resume)
    again = {name: by_name[name] for name, error in failures.items() if isinstance(error, Short)}
    if not again:
        return failures
    for file in again.values():
        progress.add(-file.size)
    others = {name: error for name, error in failures.items() if name not in again}
    return others | _once(source, target, again, progress, resume)


def _once(
    source: End, target: End, files: Mapping[str, File], progress: Progress, resume: bool
) -> dict[str, Exception]:
    moved, failures = Engine(source, target, progress, resume).run(files)
    return failures | verify(source, target, [(each.file.name, each) for each in moved])
