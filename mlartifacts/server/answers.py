"""Errors, as MLflow's server says them: a status, a code and a message.

What a store says is logged and not sent: it may name hosts, accounts and places that are no
business of who asks.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping

from starlette.responses import JSONResponse

from mlartifacts.proxy.wire import IS_DIRECTORY
from mlartifacts.server.errors import BadRequest

__all__ = ["Refusal", "refusal"]

_log = logging.getLogger(__name__)

_REFUSED = "The artifact store does not let this server do this."
_CLASH = "The artifact path goes through a file, or is that of a directory."
_BUSY = "The artifact store does not answer, or is overloaded: try again."

_BY_NUMBER = {
    errno.ENOENT: (404, "RESOURCE_DOES_NOT_EXIST", "There is no such artifact."),
    errno.EISDIR: (
        400,
        "INVALID_PARAMETER_VALUE",
        f"Artifact path {IS_DIRECTORY}, not a file.",
    ),
    errno.ENOTDIR: (400, "INVALID_PARAMETER_VALUE", _CLASH),
    errno.EEXIST: (400, "INVALID_PARAMETER_VALUE", _CLASH),
    errno.ENAMETOOLONG: (400, "INVALID_PARAMETER_VALUE", "The artifact path is too long."),
    errno.EINVAL: (400, "INVALID_PARAMETER_VALUE", "The artifact store takes no such path."),
    errno.ELOOP: (400, "INVALID_PARAMETER_VALUE", "A link in the artifact path leads in a circle."),
    errno.EACCES: (403, "PERMISSION_DENIED", _REFUSED),
    errno.EPERM: (403, "PERMISSION_DENIED", _REFUSED),
    errno.EROFS: (403, "PERMISSION_DENIED", _REFUSED),
    errno.ENOSPC: (507, "RESOURCE_EXHAUSTED", "The artifact store is full."),
    errno.EDQUOT: (507, "RESOURCE_EXHAUSTED", "The artifact store is full."),
    errno.EFBIG: (413, "INVALID_PARAMETER_VALUE", "The artifact store takes no file so large."),
    errno.EOPNOTSUPP: (501, "NOT_IMPLEMENTED", "The artifact store cannot do this."),
    errno.ENOTEMPTY: (409, "RESOURCE_CONFLICT", "The artifact was changed meanwhile."),
    errno.ESTALE: (409, "RESOURCE_CONFLICT", "The artifact was changed meanwhile."),
} | dict.fromkeys(
    (
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPIPE,
    ),
    (503, "TEMPORARILY_UNAVAILABLE", _BUSY),
)


class Refusal(JSONResponse):
    """What is answered in the place of what was asked for.

    Parameters
    ----------
    status : int
    code : str
        MLflow's (``mlflow/protos/databricks.proto``).
    message : str
    headers : mapping, optional
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__({"error_code": code, "message": message}, status, headers)


def refusal(error: Exception) -> Refusal:
    """What is answered where an operation failed; the log has why."""
    if isinstance(error, BadRequest):
        return Refusal(400, "INVALID_PARAMETER_VALUE", f"Invalid request: {error}.")
    number = next(filter(None, map(_number, _causes(error))), None)
    status, code, message = _BY_NUMBER.get(
        number or 0, (500, "INTERNAL_ERROR", "The artifact store failed: see the server's log.")
    )
    level = logging.DEBUG if status in {400, 404} else logging.WARNING
    _log.log(level, "%s: %s", type(error).__name__, error)
    return Refusal(status, code, message)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _number(error: BaseException) -> int | None:
    if isinstance(error, NotImplementedError):
        return errno.EOPNOTSUPP
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT  # also where nothing more is said
    return error.errno if isinstance(error, OSError) else None
