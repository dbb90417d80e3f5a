"""Botocore's debug logs, without the secrets in them.

At ``DEBUG`` it writes down whole requests and answers: the token of a session, the key that an
object is encrypted with, and what STS and SSO answer. They are hidden by the names that they go
by, as botocore finds most of them itself (in a profile, at a role, in another variable), where
nobody knows their values beforehand.
"""

from __future__ import annotations

import logging
import re

__all__ = ["hide_secrets"]

#: The loggers that write down what is sent and received; aiobotocore takes the same.
_LOGGERS = ("botocore.auth", "botocore.endpoint", "botocore.parsers")

# A name, as a header, a parameter, a part of a query or an element, and a value in quotes or bare.
_SAID = re.compile(
    r"((?:security-token|customer-key(?:-md5)?|SSECustomerKey(?:MD5)?|bearer_token|ClientSecret"
    r"|SecretAccessKey|(?:Access|Refresh|Session|WebIdentity)Token)['\"]?\s*[:=>]\s*(?:b(?=['\"]))?)"
    r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s'\"&<,;]+)",
    re.IGNORECASE,
)


def hide_secrets() -> None:
    """Let botocore's loggers say ``<hidden>`` for every secret; again does no more."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_hidden)


def _hidden(record: logging.LogRecord) -> bool:
    record.msg, record.args = _SAID.sub(r"\1<hidden>", record.getMessage()), None
    return True
