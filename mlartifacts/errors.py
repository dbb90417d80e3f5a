"""The exceptions of this package: what is wrong with a URI, a setting or an installation.

Operations on bytes do not raise these. They raise the builtins that callers of ``open``
expect (``FileNotFoundError``, ``PermissionError``, ``TimeoutError``, ...), with ``filename``
set and the driver's own error as ``__cause__``.
"""

from __future__ import annotations

import collections
import contextlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

__all__ = [
    "MOST_SAID",
    "ArtifactError",
    "InvalidConfig",
    "InvalidURI",
    "MissingDriver",
    "TransferError",
    "UnknownScheme",
    "Unresolved",
    "chain",
    "final",
    "hide_queries",
    "hide_query",
    "is_final",
    "is_of_store",
    "of_store",
    "one_line",
    "printable",
    "queries_hidden",
    "said_by",
]

E = TypeVar("E", bound=BaseException)


# What the message of a TransferError tells, at most; the attribute has all.
_CAUSES = 6
_NAMES = 3
_LONGEST_CAUSE = 300
_LONGEST_NAME = 60

#: Bytes of an answer that is an error: enough to tell what is wrong.
MOST_SAID = 2**16
_PAGE = re.compile(r"\s*<[!?a-z]", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]*>([^<]+)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")

# Stands for the name of a file in a text, and what is replaced with it: a path, as the name's end.
_OWN = "\0"
_OWN_PATH = re.compile(rf"(?<![\w.-])(?:[^\s'\"{_OWN}]*/)?{_OWN}(?![\w-])")
# An id, an address, a port: a word with a digit.
_WORD = re.compile(r"[\w-]+")
_DIGIT = re.compile(r"\d")

# The query of a URL in a text, and of one that is all of it.
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", re.IGNORECASE)
_WHOLE_QUERY = re.compile(r"(https?://[^?]*)\?.*", re.IGNORECASE | re.DOTALL)


class ArtifactError(Exception):
    """Base of every exception that this package defines."""


class InvalidURI(ArtifactError, ValueError):
    """A URI that names no artifact; the message names the bad part, never a password."""


class UnknownScheme(InvalidURI):
    """A URI whose scheme no store serves; the message lists the schemes that there are."""

    def __init__(self, scheme: str, known: Iterable[str]) -> None:
        self.scheme = scheme
        self.known = tuple(sorted(known))
        super().__init__(
            f"No store serves the scheme {scheme!r}. Schemes: {', '.join(self.known)}."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.scheme, self.known)


class InvalidConfig(ArtifactError, ValueError):
    """A setting that cannot be used; the message names it and says what it accepts."""


class MissingDriver(ArtifactError, ImportError):
    """A store's driver that is not installed; the message is the command that installs it."""

    def __init__(self, extra: str, package: str, more: str = "") -> None:
        self.extra = extra
        self.package = package
        self.more = more
        super().__init__(
            f"The package {package!r} is needed here: pip install 'mlartifacts[{extra}]'{more}",
            name=package,
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.extra, self.package, self.more)


class Unresolved(ArtifactError, FileNotFoundError):
    """A logical URI (``runs:/``, ``models:/``) that the tracking server does not know."""


class TransferError(ArtifactError, OSError):
    """Files that could not be transferred or deleted, each with its cause.

    The message tells each cause once, how many files it is of, and the names of a few.

    Parameters
    ----------
    failures : mapping of str to BaseException
        The causes, by the names of the files; ``""`` is the place itself.
    done : str, default "transferred"
        What was not done: ``"uploaded"``, ``"deleted"``, ...

    Attributes
    ----------
    failures : dict of str to BaseException
    done : str
    """

    def __init__(self, failures: Mapping[str, BaseException], done: str = "transferred") -> None:
        self.failures = dict(failures)
        self.done = done
        super().__init__(_summary(self.failures, done))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.failures, self.done)


def final(error: E) -> E:
    """Mark an error after which the driver has tried again in vain, so that nobody else does."""
    error._is_final = True  # type: ignore[attr-defined]
    return error


def is_final(error: BaseException) -> bool:
    """Whether the driver has tried again."""
    return hasattr(error, "_is_final")


def of_store(error: E) -> E:
    """Mark an error that every file of a store meets: a refused login, a bucket that is missing."""
    error._is_of_store = True  # type: ignore[attr-defined]
    return error


def is_of_store(error: BaseException) -> bool:
    """Whether every file of the store meets this error."""
    return isinstance(error, InvalidConfig | MissingDriver) or hasattr(error, "_is_of_store")


def _summary(failures: Mapping[str, BaseException], done: str) -> str:
    found = _alike(failures)
    if len(found) > _CAUSES + 1:
        found = _but_for_ids(found, failures)
    alike = sorted(found.items(), key=lambda each: -len(each[1]))
    if len(failures) == 1:
        [(cause, [name])] = alike
        return f"{_named(name, failures)} was not {done}: {one_line(cause)}"
    head = f"{len(failures)} files were not {done}:"
    if len(alike) == 1:
        [(cause, names)] = alike
        return f"{head} {one_line(cause)} ({_few(names, failures)})"
    lines = [head]
    told = _CAUSES if len(alike) > _CAUSES + 1 else len(alike)
    for cause, names in alike[:told]:
        count = f"{len(names)} files: " if len(names) > 1 else ""
        lines.append(f"  {one_line(cause)} ({count}{_few(names, failures)})")
    others = [len(names) for _, names in alike[told:]]
    if others:
        lines.append(f"  and {sum(others)} files for {len(others)} other causes")
    return "\n".join(lines)


def _alike(failures: Mapping[str, BaseException]) -> dict[str, list[str]]:
    """The names of the files that failed alike, by what is said of them."""
    causes = {name: _cause(error) for name, error in failures.items()}
    counts = collections.Counter(causes.values())
    bare = {
        name: cause if counts[cause] > 1 else _without(cause, name, failures[name])
        for name, cause in causes.items()
    }
    counts = collections.Counter(bare.values())
    found: dict[str, list[str]] = {}
    for name, cause in sorted(bare.items()):
        found.setdefault(cause if counts[cause] > 1 else causes[name], []).append(name)
    return found


def _but_for_ids(
    found: Mapping[str, list[str]], failures: Mapping[str, BaseException]
) -> dict[str, list[str]]:
    """The same, but causes that differ by ids alone are one, which the first of them tells."""
    together: dict[object, tuple[str, list[str]]] = {}
    for cause, names in found.items():
        error = failures[names[0]]
        bare = _WORD.sub(lambda word: "#" if _DIGIT.search(word[0]) else word[0], cause)
        like = (bare, type(error), getattr(error, "errno", None))
        together.setdefault(like, (cause, []))[1].extend(names)
    return {cause: sorted(names) for cause, names in together.values()}


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    kind = type(error).__name__
    if isinstance(error, OSError | ArtifactError):
        return str(error) or kind
    return f"{kind}: {error}" if str(error) else kind


def _without(cause: str, name: str, error: BaseException) -> str:
    """What is said of a file without its own name, or a path or URL that ends with that."""
    about = str(getattr(error, "filename", None) or name)
    # An error may be about another file, which is in the way.
    own_names = (about if about.endswith(name) else "", name, quote(name, errors="replace"))
    for own in own_names:
        if own and own in cause:
            cause = _OWN_PATH.sub("...", cause.replace(own, _OWN)).replace(_OWN, own)
    return cause


def _few(names: list[str], failures: Mapping[str, BaseException]) -> str:
    few = [_named(name, failures) for name in names[:_NAMES]]
    if len(names) > _NAMES:
        few.append(f"and {len(names) - _NAMES} more")
    return ", ".join(few)


def _named(name: str, failures: Mapping[str, BaseException]) -> str:
    own = name or str(getattr(failures[name], "filename", None) or "the file")
    shown = printable(own)
    return shown if len(shown) <= _LONGEST_NAME else f"...{shown[3 - _LONGEST_NAME :]}"


def one_line(text: str) -> str:
    """A text as :func:`printable`, cut where it is long."""
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= _LONGEST_CAUSE else f"{shown[: _LONGEST_CAUSE - 3]}..."


def said_by(answer: bytes | str) -> str:
    """A line of what a server says; of a page its title, or else its text."""
    text = answer[:MOST_SAID].decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    if _PAGE.match(text):
        title = _TITLE.search(text)
        text = html.unescape(title[1] if title else _TAG.sub(" ", text))
    return one_line(text)


def printable(text: str) -> str:
    """Have a text command no terminal, be one line, and show no signature of a URL."""
    text = hide_queries(text)
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def hide_queries(text: str) -> str:
    """Replace the query of every web URL in a text, which may hold a signature, by ``...``."""
    return _QUERY.sub(r"\1?...", text)


def _hidden(value: Any) -> Any:
    if isinstance(value, list):  # of paths
        return [_hidden(each) for each in value]
    return hide_queries(value) if isinstance(value, str) else value


def hide_query(path: str) -> str:
    """Do it where a text is nothing but a web URL; any other path stays as it is."""
    return _WHOLE_QUERY.sub(r"\1?...", path)


@contextlib.contextmanager
def queries_hidden() -> Iterator[None]:
    """Hide the queries of URLs in the errors that are raised inside, and in what caused them."""
    try:
        yield
    except BaseException as error:
        for each in chain(error):
            each.args = tuple(_hidden(value) for value in each.args)
            if isinstance(each, OSError):
                each.strerror = each.strerror and hide_queries(each.strerror)
                if isinstance(each.filename, str):
                    each.filename = hide_query(each.filename)
        raise


def chain(error: BaseException) -> list[BaseException]:
    """An error and all that it came of, each once, and what a :class:`TransferError` has."""
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in found:
            found[id(each)] = each
            left += [each.__cause__, each.__context__]
            left += each.failures.values() if isinstance(each, TransferError) else ()
    return list(found.values())
