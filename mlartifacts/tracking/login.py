"""Who we are to a tracking server, as MLflow's client says it."""

from __future__ import annotations

import base64
import configparser
import os
import ssl
from dataclasses import dataclass, field

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig
from mlartifacts.uri import ArtifactURI

__all__ = ["AUTHORITY", "VARIABLES", "Login", "basic"]

_USERNAME = "MLFLOW_TRACKING_USERNAME"
_PASSWORD = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105  (a variable's name)
_TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105  (a variable's name)
_INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"
#: Says who issues the certificates that are trusted.
AUTHORITY = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_FILE = "~/.mlflow/credentials"
_CERTIFICATE = "MLFLOW_TRACKING_CLIENT_CERT_PATH"

#: What decides about a login: variables, and a file.
VARIABLES = (_USERNAME, _PASSWORD, _TOKEN, _INSECURE, AUTHORITY, _CERTIFICATE, "HOME", _FILE)


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials and TLS settings.

    Attributes
    ----------
    authorization : str or None
        The value of the header.
    verify : bool
        Whether certificates are checked.
    authority : str or None
        A file or a directory of certificates that are trusted instead of the system's.
    certificate : str or None
        A file with the client's certificate and its key.
    """

    authorization: str | None = field(default=None, repr=False)
    verify: bool = True
    authority: str | None = None
    certificate: str | None = None

    @classmethod
    def of(cls, server: ArtifactURI, environment: Environment) -> Login:
        """The login of a server's URI, else of the environment, else of ``~/.mlflow/credentials``.

        A user without a password is none, and a user wins over a token, as in MLflow.

        Raises
        ------
        InvalidConfig
            Settings of TLS contradict each other, or name files that are not there; or the login
            has characters that no header can have.
        """
        insecure = bool(environment.boolean(_INSECURE))
        authority, certificate = environment.text(AUTHORITY), environment.text(_CERTIFICATE)
        if insecure and authority:
            raise InvalidConfig(
                f"{_INSECURE} turns the check of certificates off and {AUTHORITY} says whom to"
                " trust: set one of the two."
            )
        for name, path in ((AUTHORITY, authority), (_CERTIFICATE, certificate)):
            if path is not None and not os.path.exists(path):
                raise InvalidConfig(f"{name}={path!r}: there is no such file.")
        return cls(_authorization(server, environment), not insecure, authority, certificate)

    def context(self) -> ssl.SSLContext:
        """The TLS settings for connections.

        Raises
        ------
        InvalidConfig
            A file has no certificate, or no key.
        """
        try:
            directory = self.authority is not None and os.path.isdir(self.authority)
            context = ssl.create_default_context(
                cafile=None if directory else self.authority,
                capath=self.authority if directory else None,
            )
        except (ssl.SSLError, OSError) as error:
            raise InvalidConfig(f"{AUTHORITY}={self.authority!r}: {error}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate)
            except (ssl.SSLError, OSError) as error:
                raise InvalidConfig(f"{_CERTIFICATE}={self.certificate!r}: {error}") from error
        return context


def _authorization(server: ArtifactURI, environment: Environment) -> str | None:
    if server.username is not None:
        return _encoded(f"The login of {server}", server.username, server.secret() or "")
    in_file = _credentials_file()
    username = environment.text(_USERNAME) or in_file.get(_USERNAME.lower())
    password = environment.text(_PASSWORD) or in_file.get(_PASSWORD.lower())
    if username and password:
        return _encoded(f"{_USERNAME} or {_PASSWORD}", username, password)
    # Files have a newline at their end, and variables are set from files.
    token = (environment.text(_TOKEN) or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise InvalidConfig(f"{_TOKEN} has a character that no header can have.")
    return f"Bearer {token}" if token else None


def _encoded(named: str, username: str, password: str) -> str:
    try:
        return basic(username, password)
    except UnicodeEncodeError:  # which has the password
        raise InvalidConfig(f"{named} has bytes that are no UTF-8.") from None


def basic(username: str, password: str) -> str:
    """A header's value for a user and a password."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def _credentials_file() -> dict[str, str]:
    path = os.path.expanduser(_FILE)
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        # The parser's own words quote the line, which may be the password's.
        raise InvalidConfig(f"{path} is no file of settings ({type(error).__name__}).") from None
    return dict(config["mlflow"]) if "mlflow" in config else {}
