"""Who we are to a tracking server, as MLflow's client says it."""

from __future__ import annotations

import base64
import configparser
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig
from mlartifacts.tracking import plugins
from mlartifacts.uri import ArtifactURI

__all__ = ["AUTHORITY", "VARIABLES", "WORKSPACE", "Login", "basic"]

_USERNAME = "MLFLOW_TRACKING_USERNAME"
_PASSWORD = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105  (a variable's name)
_TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105  (a variable's name)
_PLUGIN = "MLFLOW_TRACKING_AUTH"
_INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"
#: Says who issues the certificates that are trusted.
AUTHORITY = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_FILE = "~/.mlflow/credentials"
_CERTIFICATE = "MLFLOW_TRACKING_CLIENT_CERT_PATH"

#: Says of which of a server's workspaces the runs and models are; ``mlflow.set_workspace`` sets it.
WORKSPACE = "MLFLOW_WORKSPACE"
_KUBERNETES = frozenset({"kubernetes", "kubernetes-namespaced"})
_WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"

#: What decides about a login: variables, and a file.
VARIABLES = (
    _USERNAME,
    _PASSWORD,
    _TOKEN,
    _PLUGIN,
    plugins.SIGNED,
    _INSECURE,
    AUTHORITY,
    _CERTIFICATE,
    WORKSPACE,
    "HOME",
    _FILE,
)


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials, TLS settings, and what else requests say of who asks.

    Attributes
    ----------
    authorization : str or None
        The value of the header.
    workspace : str or None
        Whose runs and models are meant. It is no secret, and told wherever a server redirects to.
    plugin : str or None
        The name of the plugin that logs in.
    is_signed : bool
        Whether requests are signed as AWS wants it, whatever else there is.
    verify : bool
        Whether certificates are checked.
    authority : str or None
        A file or a directory of certificates that are trusted instead of the system's.
    certificate : str or None
        A file with the client's certificate and its key.
    """

    authorization: str | None = field(default=None, repr=False)
    workspace: str | None = None
    plugin: str | None = None
    is_signed: bool = False
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
        return cls(
            _authorization(server, environment),
            (environment.text(WORKSPACE) or "").strip() or None,
            environment.text(_PLUGIN),
            bool(environment.boolean(plugins.SIGNED)),
            not insecure,
            authority,
            certificate,
        )

    @property
    def is_known(self) -> bool:
        """Whether a server is told who asks."""
        return self.authorization is not None or self.plugin is not None or self.is_signed

    @property
    def may_wait(self) -> bool:
        """Whether somebody else may be asked for the login."""
        return self.plugin is not None or self.is_signed

    @property
    def _is_left_to_plugin(self) -> bool:
        """MLflow's own plugins add their token where there is none."""
        return self.plugin in _KUBERNETES and str(self.authorization).startswith("Basic ")

    def spread(self) -> dict[str, str]:
        """The headers for every server that a request comes to."""
        return {} if self.workspace is None else {_WORKSPACE_HEADER: self.workspace}

    def headers(
        self, method: str, url: str, said: Mapping[str, str], body: bytes | None = None
    ) -> dict[str, str]:
        """The headers for the server itself, that of plugins among them; for one request.

        Parameters
        ----------
        method, url : str
        said : mapping
            The other headers.
        body : bytes, optional
            Of a request that has no ``X-Amz-Content-SHA256``.

        Raises
        ------
        InvalidConfig
            The request cannot be signed.
        """
        told = plugins.provided(said)
        if self.authorization is not None and not self._is_left_to_plugin:
            told["Authorization"] = self.authorization
        if self.is_signed:
            return told | plugins.signature(method, url, said, body)
        if self.plugin is not None:
            told |= plugins.logged_in(self.plugin, method, url, {**said, **told}, body)
        return told

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
