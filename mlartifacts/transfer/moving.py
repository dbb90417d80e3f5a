"""Files moved and verified, in this process."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping

from mlartifacts.checksums import matching
from mlartifacts.transfer.engine import Engine, Moved, again
from mlartifacts.transfer.landing import Full
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.records import Brought, dated
from mlartifacts.transfer.trees import End, File
from mlartifacts.transfer.verify import Wrong, compared, verify

__all__ = ["move"]


def move(
    source: End,
    target: End,
    files: Iterable[File],
    progress: Progress,
    resume: bool,
    is_wanted: Callable[[], bool] | None = None,
    brought: dict[str, Brought] | None = None,
) -> dict[str, Exception]:
    """Move files, and look whether they arrived; what did not in full is moved once more.

    Parameters
    ----------
    source, target : End
    files : iterable of File
    progress : Progress
    resume : bool
        As for :class:`Engine`.
    is_wanted : callable, optional
        As for :class:`Engine`.
    brought : dict, optional
        Takes, by name, what was moved, also where that is interrupted.

    Returns
    -------
    dict of str to Exception
        The files that did not, by name.

    Raises
    ------
    Stopped
        It was not wanted any more.
    """
    right: dict[str, Moved] = {}

    def once(files: Mapping[str, File]) -> dict[str, Exception]:
        engine = Engine(source, target, progress, resume, is_wanted=is_wanted)
        seen: dict[str, File] = {}
        failures: dict[str, Exception] = {}
        try:
            moved, failures = engine.run(files)
            arrived = [(each.file.name, each) for each in moved]
            failures |= verify(target, arrived, seen, source, engine.gone)
            right.update((name, each) for name, each in arrived if name not in failures)
        finally:
            for each in engine.moved:
                name = each.file.name
                if brought is not None and name not in failures:
                    brought[name] = _brought(source, target, each, seen.get(name))
        return failures

    by_name = {file.name: file for file in files}
    failures = once(by_name)
    unfit = {
        name: by_name[name]
        for name, error in failures.items()
        if isinstance(error, Full) and error.errno == errno.ENOSPC
    }
    if fitting := _fitting(target, unfit):
        others = {name: error for name, error in failures.items() if name not in fitting}
        failures = others | once(fitting)
    wrong = {name: by_name[name] for name, error in failures.items() if isinstance(error, Wrong)}
    if not wrong:
        return failures
    for name, file in wrong.items():
        progress.add(-file.size)
        with contextlib.suppress(OSError):  # who moves it is told
            wrong[name] = again(functools.partial(source.file, name))
    others = {name: error for name, error in failures.items() if name not in wrong}
    before = [each for each in right.items() if not each[1].arrived]
    return others | once(wrong) | _overwritten(target, before, source)


def _overwritten(
    target: End, moved: Iterable[tuple[str, Moved]], source: End
) -> dict[str, Exception]:
    """Those that were right before others were moved once more, and are not any more."""
    failures: dict[str, Exception] = {}
    for name, error in compared(target, moved, None, source).items():
        if isinstance(error, Wrong):
            reason = (
                "another file was written over it, as a link there seems to lead from one to the"
                " other: leave one of them out, or remove the link"
            )
            failures[name] = OSError(errno.EIO, reason, target.path(name))
    return failures


def _fitting(target: End, files: Mapping[str, File]) -> dict[str, File]:
    """Files for which there is room now: what came of larger ones took it, and was given up."""
    fitting: dict[str, File] = {}
    free: float | None = None
    for name, file in sorted(files.items(), key=lambda each: each[1].size):
        if free is None:
            free = shutil.disk_usage(os.path.dirname(target.real(name))).free
        free -= file.size
        if free < 0:
            break
        fitting[name] = file
    return fitting


def _brought(source: End, target: End, moved: Moved, there: File | None) -> Brought:
    listed = moved.file.checksum
    if target.is_local:
        is_told = matching(listed, moved.passed) is True
    else:
        kept = there.checksum if there else None
        # The source must be able to tell it the next time, too.
        is_told = (source.is_local or listed is not None) and (
            moved.arrived or matching(kept, moved.passed) is True
        )
    return Brought(moved.file, there or dated(target, moved.file, moved.time), moved.span, is_told)
