"""Running the server, in this process."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
from types import FrameType

from mlartifacts.errors import MissingDriver
from mlartifacts.server.app import create_app

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise MissingDriver("server", "uvicorn") from error

__all__ = ["run"]

# Seconds that what is on its way is given when the server is to end; containers are killed at ten.
_PATIENCE = 8


def run(destination: str, host: str, port: int) -> None:
    """Serve artifacts until the process is told to end by SIGINT or SIGTERM.

    What is on its way then is given eight seconds; uploads that are not done are dropped.

    Parameters
    ----------
    destination : str
        The artifact URI of the root that is served.
    host : str
        The address to listen on.
    port : int
        0 stands for any that is free.

    Raises
    ------
    InvalidURI, UnknownScheme, InvalidConfig, MissingDriver
        As :func:`mlartifacts.server.app.create_app`.
    OSError
        The address cannot be listened on.
    """
    app = create_app(destination)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        config = uvicorn.Config(
            app, lifespan="off", server_header=False, timeout_graceful_shutdown=_PATIENCE
        )
        # uvicorn says nothing of a socket that it is given.
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        logging.getLogger("uvicorn.error").info("Serving artifacts at %s", url)
        # uvicorn sends itself the signal again, which else would end the process before all is
        # dropped that is to be.
        signal.signal(signal.SIGTERM, _end)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit()
