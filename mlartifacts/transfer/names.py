"""Which names an end of a transfer can hold, and which of them it takes for one."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlartifacts.errors import InvalidURI, is_of_store
from mlartifacts.transfer.engine import again
from mlartifacts.transfer.patterns import parents
from mlartifacts.transfer.trees import End, File
from mlartifacts.writing import probe_beside

__all__ = ["folded", "nearly_equal", "refuse_linked", "refuse_names", "respelled"]

# How many bytes a step of a name may have on nearly every disk.
_USUAL = 255
# That lead to a file: more of them no system follows.
_MOST_LINKS = 40
# A byte that is no UTF-8, as Python has it in a name.
_NO_TEXT = re.compile("[\udc80-\udcff]")


def refuse_names(names: Sequence[str], end: End, dry_run: bool = False) -> set[str]:
    """Refuse, by name, what an end cannot hold.

    Parameters
    ----------
    names : sequence of str
    end : End
    dry_run : bool, default False
        Write nothing to find out, so that it may not be known what folds case, how long a name
        may be, and whether MLflow's server holds a file and a directory of one name.

    Returns
    -------
    set of str
        Which of them, or of the directories that they are in, are links on this machine's disk.

    Raises
    ------
    InvalidURI
        A name would leave the root, by a link that is there too, is too long or has characters
        that the end does not know, is a directory's as well, or a device's, or differs from
        another only by the case of its letters where a disk or a server takes these for one.
    """
    holds_keys = end.holds_keys
    for name in names:
        steps = name.split("/") if name else []
        inner = steps[:-1] if holds_keys else []
        if any(step in {".", ".."} for step in steps) or "" in steps[len(inner) :]:
            raise InvalidURI(f"The name {name!r} has an empty step, '.' or '..'.")
        if reason := end.unfit(name):
            raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")
    directories = sorted({above for name in names for above in parents(name)})
    both = sorted(set(directories) & set(names))
    if both and end.has_directories:
        raise InvalidURI(f"{end} cannot hold {both[0]!r} as a file and as a directory.")
    if not holds_keys:
        if not dry_run:
            _try_names(names, both, end)
        folds: dict[str, bool] = {}
        for folder, one, other in nearly_equal([*directories, *names]):
            if folder not in folds:
                folds[folder] = _folds_case(end, folder, dry_run)
            if folds[folder]:
                raise InvalidURI(f"{end} takes {one!r} and {other!r} for one name.")
    links: set[str] = set()
    disk = end.physical()
    if disk.is_local and os.path.lexists(disk.root):
        root = disk.real()
        for name in (*directories, *names):
            is_link, reason = _taken(root, disk.path(name))
            if reason is not None:
                raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")
            if is_link:
                links.add(name)
    return links


def refuse_linked(
    source: End,
    target: End,
    files: Mapping[str, File],
    there: Mapping[str, File] | None,
    links: set[str],
) -> None:
    """Refuse two files that a target takes for one, as a link there leads from one to the other.

    Parameters
    ----------
    source, target : End
    files : mapping of str to File
        The source's. Those that are one there, too, are not refused.
    there : mapping of str to File, optional
        The target's listing; unless given, a server is asked for what is beside them.
    links : set of str
        What :func:`refuse_names` found to be links.

    Raises
    ------
    InvalidURI
    ConnectionError, TimeoutError, PermissionError
        No file can be written.
    """
    store = target.physical()
    leads: dict[str, str] = {}
    try:
        if store.tells_links and len(files) > 1:
            needed = {above for name in files for above in parents(name)}
            if there is None or store is not target:
                there = again(lambda: store.beside(needed))
            links = store.links & {*needed, *files}
            if hasattr(store.fs, "links_in"):
                links |= _alike({name: there[name] for name in files.keys() & there.keys()})
        while links:
            leads |= store.leads(links)
            onwards = {each for name in leads.values() for each in _upwards(name)}
            links = (store.links & onwards) - links - leads.keys()
    except OSError as error:  # there is nothing yet, or who writes may not look
        if isinstance(error, ConnectionError | TimeoutError) or is_of_store(error):
            raise
    seen: dict[str, str] = {}
    for name in files if leads else ():
        other = seen.setdefault(_place(name, leads), name)
        if other != name and not _are_one(source, files[name], files[other]):
            link = next(each for one in (name, other) for each in _upwards(one) if each in leads)
            raise InvalidURI(
                f"{target} takes {other!r} and {name!r} for one file, as {link!r} is a link there:"
                " leave one of them out, or remove the link."
            )


def _alike(files: Mapping[str, File]) -> set[str]:
    """Those that are listed as another one is, by MLSD: LIST, which tells links, has no seconds."""
    names: dict[tuple[int, float | None], list[str]] = {}
    for name, file in files.items():
        if file.unit <= 1:
            names.setdefault((file.size, file.modified), []).append(name)
    return {name for each in names.values() if len(each) > 1 for name in each}


def _place(name: str, leads: Mapping[str, str]) -> str:
    """Where the links of a target lead a name."""
    for _ in range(_MOST_LINKS):
        link = next((each for each in _upwards(name) if each in leads), None)
        if link is None:
            break
        name = f"{leads[link]}{name[len(link) :]}".removeprefix("/" if not leads[link] else "")
    return name


def _upwards(name: str) -> Iterator[str]:
    yield name
    yield from parents(name)


def _are_one(source: End, one: File, other: File) -> bool:
    """Whether two files of a source are the same, or have the same content for sure."""
    if one.checksum is not None and other.checksum is not None and one.size == other.size:
        return one.checksum == other.checksum
    return not source.holds_keys and source.followed(one.name) == source.followed(other.name)


def folded(name: str) -> str:
    """What a name has in common with all that a disk may take for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def respelled(names: Iterable[str], there: Mapping[str, File], end: End) -> dict[str, File]:
    """Which of some names an end has, though it lists them in other letters.

    Parameters
    ----------
    names : iterable of str
    there : mapping of str to File
        What it lists.
    end : End

    Returns
    -------
    dict of str to File
        By the name that is not listed.
    """
    listed = {folded(name) for name in there}
    unsure = [name for name in names if name not in there and folded(name) in listed]
    return end.asked(unsure)


def nearly_equal(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Names in one directory that differ by the case of their letters alone.

    Yields
    ------
    (str, str, str)
        The directory, and two of the names.
    """
    seen: dict[tuple[str, str], str] = {}
    for name in names:
        folder, _, step = name.rpartition("/")
        other = seen.setdefault((folder, folded(step)), name)
        if other != name:
            yield folder, other, name


def _taken(root: str, path: str) -> tuple[bool, str | None]:
    """Whether a link is at a local path, and why what is there is not to be written to."""
    is_link = False
    try:
        mode = os.lstat(path).st_mode
        is_link = stat.S_ISLNK(mode)
        if is_link:
            real = os.path.realpath(path)
            if os.path.commonpath([root, real]) != root:
                return is_link, "a link there leads out of it"
            mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return is_link, None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return is_link, None
    return is_link, "a device or a pipe is there"


def _try_names(names: Iterable[str], both: Sequence[str], end: End) -> None:
    """Refuse what a server does not say that it cannot hold, and yet does not take or keep.

    Where another name is taken in the same place, it is this one that is not.
    """
    longest = max((step for name in names for step in name.split("/")), key=_size, default="")
    is_long = _size(longest) > _USUAL
    no_text = next(filter(_NO_TEXT.search, names), None)
    if not both and not is_long and no_text is None:
        return
    fs, path = end.fs, _above(end.fs, end.root)
    inside = path and f"{path.rstrip('/')}/"
    usual = probe_beside(inside)
    with _taking(fs, usual) as is_taken:
        if not is_taken:
            return  # nothing else can be written there, either
        if is_long:
            with _taking(fs, probe_beside(inside, longest)) as is_taken:
                if not is_taken:
                    reason = f"{longest[:20]!r}... has {_size(longest)} bytes, and is too long"
                    name = next(name for name in names if longest in name.split("/"))
                    raise InvalidURI(f"{end} cannot hold {name!r}: {reason}.")
        if no_text is not None:
            # A server that knows no names but texts has one for many of them.
            probe = probe_beside(inside, f"{'_' * 40}\udcff")
            with _taking(fs, probe) as is_taken:
                if not is_taken or probe not in fs.ls(path, detail=False):
                    reason = "the server does not keep bytes of a name that are no UTF-8"
                    raise InvalidURI(f"{end} cannot hold {no_text!r}: {reason}.")
        if both:
            with _taking(fs, probe_beside(f"{usual}/")) as is_taken:
                if not is_taken:
                    raise InvalidURI(f"{end} cannot hold {both[0]!r} as a file and as a directory.")


@contextlib.contextmanager
def _taking(fs: Any, path: str) -> Iterator[bool]:
    """Say whether a server takes a file of a name, which is there meanwhile."""
    try:
        fs.pipe_file(path, b"?")
    except (ConnectionError, TimeoutError):
        raise  # nobody answers
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # it is hidden by its name
            fs.rm_file(path)


def _size(step: str) -> int:
    return len(step.encode("utf-8", "surrogatepass"))


def _above(fs: Any, path: str) -> str:
    """The nearest directory that is there, of a path or above it."""
    while not fs.isdir(path) and path != (above := fs._parent(path)):
        path = above
    return path


def _folds_case(end: End, folder: str, dry_run: bool = False) -> bool:
    """Whether a directory takes upper and lower case for one, as macOS's and Windows' mostly do.

    It is asked about what is in it, or by a file: the directories above may lie on another disk.
    """
    fs, path = end.fs, _above(end.fs, end.path(folder))
    inside = path and f"{path.rstrip('/')}/"
    names: dict[str, str] = {}
    with contextlib.suppress(OSError):  # it may be written to, and not read, or is not there
        for each in fs.ls(path, detail=True):
            names[each["name"].rstrip("/").rpartition("/")[2]] = each["type"]
    for name, kind in names.items():
        other = name.swapcase()
        if kind == "file" and name.isascii() and other != name:
            return other not in names and _is_read(fs, f"{inside}{other}")
    if dry_run:
        return False
    probe = probe_beside(inside)
    with _taking(fs, probe) as is_taken:  # else nothing can be written there, either
        return is_taken and _is_read(fs, f"{inside}{probe.rpartition('/')[2].swapcase()}")


def _is_read(fs: Any, path: str) -> bool:
    """Whether a file is there under a name, in whichever letters it is listed."""
    try:
        fs.cat_file(path, 0, 1)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
