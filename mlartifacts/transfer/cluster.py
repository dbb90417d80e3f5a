"""A transfer spread over a Dask cluster: batches of files, which its workers move store to store.

What travels is the names of files and the roots of both ends, never bytes and never a secret: a
worker opens the stores as a user of its machine would, by its own environment. A batch whose
worker is lost is moved again by another, as often as Dask's ``distributed.scheduler.
allowed-failures`` says (3 unless set); files land whole, so that nothing is half done. A batch
that nobody waits for any more, as the client was interrupted, ends as by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK

from mlartifacts.access import url_to_fs
from mlartifacts.errors import InvalidConfig, MissingDriver
from mlartifacts.location import may_be_shown
from mlartifacts.transfer.moving import move
from mlartifacts.transfer.progress import Progress
from mlartifacts.transfer.trees import End, File
from mlartifacts.writing import surely

__all__ = ["spread"]

# A batch is the least that is lost with a worker, and the most that one of them waits for.
_FILES = 256
_SIZE = 512 * 2**20

_OF_FSSPEC = ("uri", "asynchronous", "skip_instance_cache")


def spread(
    client: Any,
    source: End,
    target: End,
    files: Sequence[File],
    progress: Progress,
    resume: bool,
) -> dict[str, Exception]:
    """Have a cluster move files.

    Parameters
    ----------
    client : distributed.Client
    source, target : End
    files : sequence of File
    progress : Progress
    resume : bool

    Returns
    -------
    dict of str to Exception
        The files that were not moved, by name.

    Raises
    ------
    InvalidConfig
        An end has an option that could be secret, or `client` is none that can be used.
    MissingDriver
        ``distributed`` is not installed.
    """
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError as error:
        raise MissingDriver("dask", "distributed") from error
    ends = _described(source), _described(target)
    if not isinstance(client, Client) or client.asynchronous or client.status != "running":
        raise InvalidConfig(
            f"cluster={client!r}: it takes a distributed.Client that is connected, and not"
            " asynchronous."
        )
    waiting = {}
    for batch in _batches(files):
        future = client.submit(move_batch, *ends, batch, resume, pure=False)
        waiting[future] = batch
    failures: dict[str, Exception] = {}
    try:
        for future in as_completed(waiting):
            batch = waiting[future]
            try:
                told = future.result()
            except Exception as lost:  # it was cancelled, or the client closed, say
                told = dict.fromkeys((file.name for file in batch), lost)
            failures |= told
            for file in batch:
                progress.add(0 if file.name in told else file.size)
                progress.file_done()
    except BaseException:
        with contextlib.suppress(Exception):  # the client may be what failed
            surely(functools.partial(client.cancel, list(waiting), force=True))
        raise
    return failures


def move_batch(
    source: tuple[str, Mapping[str, Any]],
    target: tuple[str, Mapping[str, Any]],
    files: Sequence[File],
    resume: bool,
) -> dict[str, Exception]:
    """Move some files; what a worker does.

    Parameters
    ----------
    source, target : (str, mapping)
        The URI of an end, and its options.
    files : sequence of File
    resume : bool

    Returns
    -------
    dict of str to Exception
        As :func:`spread`.
    """
    ends = [End(*url_to_fs(uri, **options)) for uri, options in (source, target)]
    size = sum(file.size for file in files)
    with Progress(DEFAULT_CALLBACK, size, len(files)) as progress:
        failures = move(ends[0], ends[1], files, progress, resume, _waited_for())
    return {name: _alone(error) for name, error in failures.items()}


def _waited_for() -> Callable[[], bool]:
    """What says whether somebody waits for the task that runs: Dask does not stop one."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def is_waited_for() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    return is_waited_for


def _alone(error: Exception) -> Exception:
    """An error without what cannot travel (a connection, say), or is not known where it arrives.

    Its cause is not told: the errors of this package say themselves what was wrong.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    of = type(error).__module__.partition(".")[0]
    if of in {"builtins", "mlartifacts"}:
        with contextlib.suppress(Exception):
            same: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
            if str(same) == str(error):
                return same
    text = f"{type(error).__name__}: {error}"
    return OSError(text) if isinstance(error, OSError) else RuntimeError(text)


def _described(end: End) -> tuple[str, dict[str, Any]]:
    """An end as another process opens it."""
    if end.is_local:
        return end.root, {}
    root = getattr(end.fs, "root_uri", None)
    if root is not None and root.password is not None:
        raise InvalidConfig(
            f"The password of {root} does not leave this process: give it to the workers by their"
            " environment, or use a key."
        )
    if end.is_url and "?" in end.root:
        shown = end.root.partition("?")[0]
        raise InvalidConfig(
            f"What stands behind {shown}? may be a signature, and would be shown to everybody who"
            " sees the cluster's tasks: copy it without a cluster."
        )
    given = end.fs.storage_options
    options = {name: value for name, value in given.items() if name not in _OF_FSSPEC}
    for name, value in options.items():
        if not may_be_shown(name, value):
            raise InvalidConfig(
                f"The option {name!r} may be a secret, and would be shown to everybody who sees"
                " the cluster's tasks: give it to the workers by their environment."
            )
    return str(end), options


def _batches(files: Iterable[File]) -> Iterator[list[File]]:
    batch: list[File] = []
    size = 0
    for file in files:
        if batch and (len(batch) == _FILES or size + file.size > _SIZE):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
