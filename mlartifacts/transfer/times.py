"""What the times of files tell: whether one of them is of what another place has.

A transfer gives what it wrote the time of what it read. Two files are taken for the same by equal
times, and never by a later one: clocks differ, and an older file may be put back. Whole seconds
tell nothing by themselves: files that are saved together have the same. A time tells less while a
change would not show in it; then another is given.
"""

from __future__ import annotations

from mlartifacts.transfer.trees import File

__all__ = ["are_one", "given", "is_settled", "same_time", "until_settled"]

# In how many seconds a change of a local file shows in its time: a kernel's tick, twice.
_TICK = 0.02
# How far the clock of another machine may be from this one, in seconds.
_APART = 1.0
# By how many seconds the time that is given differs where the file's own would tell nothing.
_OFF = 2


def same_time(one: File, other: File, unit: float = 0) -> bool:
    """Whether two files were last changed at one time, as far as both places can tell.

    Parameters
    ----------
    one, other : File
    unit : float, default 0
        The least difference that counts, in seconds.
    """
    if one.modified is None or other.modified is None:
        return False
    unit = max(one.unit, other.unit, unit)
    return one.modified == other.modified or (
        unit > 0 and one.modified // unit == other.modified // unit
    )


def are_one(one: File, other: File) -> bool:
    """Whether the times of two files alone tell that one is a copy of the other.

    Both places must tell more than the second, and the time be of one that did, once.
    """
    if max(one.unit, other.unit) >= 1 or one.modified is None:
        return False
    return one.modified % 1 != 0 and same_time(one, other)


def until_settled(file: File, now: float, unit: float = 0) -> float:
    """In how many seconds a change of a file would show in its time; 0 or less: by now.

    Parameters
    ----------
    file : File
        With a time.
    now : float
        In seconds since the epoch.
    unit : float, default 0
        What else the time is told in, in seconds.
    """
    assert file.modified is not None
    if unit := max(file.unit, unit):
        return file.modified // unit * unit + unit + (_APART if file.unit else 0) - now
    return file.modified + _TICK - now


def is_settled(file: File, now: float, unit: float = 0) -> bool:
    """Whether a change of a file after `now` would show in its time, told in `unit`."""
    return file.modified is not None and until_settled(file, now, unit) <= 0


def given(file: File, began: float, unit: float) -> float | None:
    """The time that what was read of a file is given.

    Parameters
    ----------
    file : File
        As it was listed.
    began : float
        When it was begun to be read, in seconds since the epoch.
    unit : float
        What the target keeps times in, in seconds; 0: as exactly as it is told.

    Returns
    -------
    float or None
        ``None`` where its own is not known.
    """
    if file.modified is None or is_settled(file, began, unit):
        return file.modified
    coarsest = max(file.unit, unit, 1)
    return file.modified // coarsest * coarsest - _OFF
