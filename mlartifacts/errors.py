"""The exceptions of this package: what is wrong with a URI, a setting or an installation.

Operations on bytes do not raise these. They raise the builtins that callers of ``open``
expect (``FileNotFoundError``, ``PermissionError``, ``TimeoutError``, ...), with ``filename``
set and the driver's own error as ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = [
    "ArtifactError",
    "InvalidConfig",
    "InvalidURI",
    "MissingDriver",
    "TransferError",
    "UnknownScheme",
    "Unresolved",
    "is_of_store",
    "of_store",
]

E = TypeVar("E", bound=BaseException)


# Failures that the message of a TransferError tells; the attribute has all.
_TOLD = 20


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
    """Files that could not be transferred, each with its cause in :attr:`failures`.

    The message tells the first of them.
    """

    def __init__(self, failures: Mapping[str, BaseException]) -> None:
        self.failures = dict(failures)
        told = list(self.failures.items())[:_TOLD]
        named = [f"{path}: {cause}" if path else str(cause) for path, cause in told]
        if len(self.failures) > _TOLD:
            named.append("...")
        super().__init__(f"{len(self.failures)} file(s) not transferred: {'; '.join(named)}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.failures,)


def of_store(error: E) -> E:
    """Mark an error that every file of a store meets: a refused login, a bucket that is missing."""
    error._is_of_store = True  # type: ignore[attr-defined]
    return error


def is_of_store(error: BaseException) -> bool:
    """Whether every file of the store meets this error."""
    return isinstance(error, InvalidConfig | MissingDriver) or hasattr(error, "_is_of_store")
