"""Which files of a tree a transfer is about: include and exclude patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from fsspec.utils import glob_translate

from mlartifacts.errors import InvalidConfig
from mlartifacts.transfer.trees import End

__all__ = ["PathFilter", "Patterns", "parents"]

# A set of characters, and whether it is of others than these.
_SET = re.compile(r"\[([!^]?)(\]?[^]]*)\]")
# Stands for a set while the rest of a pattern is translated; no name has it.
_NUL = "\0"

# A set in which there is nothing, as fsspec translates it.
_NOTHING = "(?!)"

Patterns = str | Iterable[str]
T = TypeVar("T")


class PathFilter:
    """Selects the files that match one of `include`, if given, and none of `exclude`.

    Patterns follow gitignore's rules over names relative to the root of the tree:

    - ``*`` and ``?`` match within one step of a name, ``**`` any number of steps, ``[...]`` one of
      several characters;
    - a pattern without a slash matches at every depth (``*.log``), one that begins with a slash,
      or has one in the middle, from the root (``/a.log``, ``data/*.csv``);
    - a directory that matches stands for all that is in it, and with a slash at its end a pattern
      matches directories alone (``cache/``).

    A tree that is a single file is matched by the last step of its path.

    Parameters
    ----------
    include, exclude : str or iterable of str, optional

    Raises
    ------
    InvalidConfig
        There is no pattern in `include` or `exclude`, or one that cannot match any name.
    """

    def __init__(self, include: Patterns | None = None, exclude: Patterns | None = None) -> None:
        self._include = None if include is None else _compiled("include", include)
        self._exclude = None if exclude is None else _compiled("exclude", exclude)

    @property
    def takes_all(self) -> bool:
        """Whether there are no patterns."""
        return self._include is None and self._exclude is None

    def among(self, files: Mapping[str, T], end: End) -> dict[str, T]:
        """The files of `end` that are selected, and the directories that may have such ones.

        A directory's name ends with a slash.
        """
        return {name: file for name, file in files.items() if self._selects(name or end.name)}

    def _selects(self, name: str) -> bool:
        is_directory = name.endswith("/")
        if self._include is not None and not is_directory and not _match(self._include, name):
            return False
        return self._exclude is None or not _match(self._exclude, name)


def parents(name: str) -> Iterator[str]:
    """The directories that a file lies in, the nearest first; that of a key ``/a`` is ``""``."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _match(patterns: list[re.Pattern[str]], name: str) -> bool:
    # Directories have a slash at their end, so that a pattern may ask for it.
    names = (name, *(f"{parent}/" for parent in parents(name)))
    return any(pattern.match(each) for pattern in patterns for each in names)


def _compiled(option: str, patterns: Patterns) -> list[re.Pattern[str]]:
    each = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(each, Iterable) or isinstance(each, bytes):
        raise InvalidConfig(f"{option}={patterns!r}: it takes a pattern, or several.")
    compiled = [_compile(option, pattern) for pattern in each]
    if not compiled:
        raise InvalidConfig(f"{option} has no pattern: leave it out to mean every file.")
    return compiled


def _compile(option: str, pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise InvalidConfig(f"{option} has {pattern!r}: a pattern is a str.")
    steps = pattern.removeprefix("/").removesuffix("/")
    if {"", ".", ".."} & set(steps.split("/")):
        raise _useless(option, pattern, "names are relative, without empty steps, '.' and '..'")
    if _NUL in pattern:
        raise _useless(option, pattern, "no name has a NUL")
    if pattern.startswith("!"):
        advice = "'!' takes nothing back: use exclude" if option == "include" else "use include"
        raise InvalidConfig(f"{option} has {pattern!r}: {advice}, or '**/!...' for such a name.")
    if "\\" in pattern:
        raise _useless(option, pattern, "steps end with '/', and [*] stands for a literal '*'")
    if "[[:" in pattern:
        raise InvalidConfig(f"{option} has {pattern!r}: write [a-zA-Z] for [[:alpha:]].")
    if {"{", "}"} & set(_SET.sub("", pattern)):
        raise _useless(option, pattern, "give several patterns for {a,b}, [{] for a literal '{'")
    is_anchored = "/" in pattern.removesuffix("/")
    sets = [_set(found) for found in _SET.finditer(steps)]
    if _NOTHING in sets:
        raise _useless(option, pattern, "a set such as [z-a] is empty")
    steps = _SET.sub(_NUL, steps)
    try:
        body = glob_translate(steps if is_anchored else f"**/{steps}")
    except ValueError as error:
        raise InvalidConfig(f"{option} has {pattern!r}: {error}.") from error
    # In a store of objects, a step may be empty.
    body = body.replace("(?:.+/)?", "(?:.*/)?").replace("[^/]+", "[^/]*")
    for each in sets:
        body = body.replace(_NUL, each, 1)
    return re.compile(body.removesuffix(r"\Z") + ("/" if pattern.endswith("/") else "/?") + r"\Z")


def _set(found: re.Match[str]) -> str:
    """The expression of a set of characters, of which none is the slash between steps."""
    body = glob_translate(f"[{'!' if found[1] else ''}{found[2]}]")
    one = body.removeprefix("(?s:").removesuffix(r")\Z")
    return one if one == _NOTHING else f"(?!/){one}"


def _useless(option: str, pattern: str, advice: str) -> InvalidConfig:
    return InvalidConfig(f"{option} has {pattern!r}, which matches nothing: {advice}.")
