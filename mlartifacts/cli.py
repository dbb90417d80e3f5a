"""The command line: artifacts of every store, by their URIs.

Each command is a function of the package: names go to the standard output, what went wrong to the
standard error, and the exit status is 0, or 1 where something failed, 2 where the command was
wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import mlartifacts
from mlartifacts.errors import ArtifactError

__all__ = ["main"]

_TARGET = "a URI or a local path; a file goes into a directory, or what ends with a slash"
_PIECE = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's unless given.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    SystemExit
        The arguments are no command (2), or ask for help (0).
    """
    asked = _parser().parse_args(arguments)
    act: Callable[[argparse.Namespace], None] = asked.act
    try:
        act(asked)
    except KeyboardInterrupt:
        return 130
    except (ArtifactError, OSError, ValueError, NotImplementedError) as error:
        has_enough = isinstance(error, BrokenPipeError) and error.filename is None  # who reads
        if sys.stderr is not None and not has_enough:
            for line in _reason(error).split("\n"):
                _say(f"mlartifacts: {line}", sys.stderr)
        _forget_output()
        return 1
    return 0


def _forget_output() -> None:
    """Keep what the standard output did not take from failing again at the exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlartifacts", description="Artifacts of MLflow, in every store, by their URIs."
    )
    parser.add_argument("--version", action="version", version=mlartifacts.__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(act: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        name = act.__name__.strip("_")
        made = commands.add_parser(name, help=about, description=f"{about[:1].upper()}{about[1:]}.")
        made.set_defaults(act=act)
        return made

    ls = command(_ls, "list what is in a directory")
    ls.add_argument("uri")
    ls.add_argument("-l", "--long", action="store_true", help="with bytes and times")
    ls.add_argument("-R", "--recursive", action="store_true", help="and in those below it")

    cat = command(_cat, "write files to the standard output, one after the other")
    cat.add_argument("uri", nargs="+")

    cp = command(_cp, "copy a file, or what is in a directory, between any two places")
    _add_places(cp)
    _add_patterns(cp)
    cp.add_argument(
        "--overwrite",
        choices=("always", "never", "newer", "different"),
        help="which files that are there are written again (different)",
    )

    sync = command(_sync, "copy what is missing or differs")
    _add_places(sync)
    _add_patterns(sync)
    sync.add_argument("--delete", action="store_true", help="delete what the source has not")

    rm = command(_rm, "delete a file, or a directory with all in it")
    rm.add_argument("uri")
    _add_patterns(rm)

    resolve = command(_resolve, "say where the artifact of a runs: or models: URI lies")
    resolve.add_argument("uri")

    serve = command(_serve, "serve artifacts by MLflow's REST API")
    serve.add_argument("uri", help="the root that is served")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    serve.add_argument("--port", type=_port, default=5500, help="(%(default)s)")
    return parser


def _port(text: str) -> int:
    if not 0 <= (port := int(text)) < 2**16:
        raise ValueError
    return port


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a URI or a local path")
    parser.add_argument("target", help=_TARGET)


def _add_patterns(parser: argparse.ArgumentParser) -> None:
    for name, about in (("include", "only"), ("exclude", "not")):
        parser.add_argument(
            f"--{name}",
            action="append",
            metavar="PATTERN",
            help=f"{about} the names that match, as '*.log' or 'data/' (may be repeated)",
        )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="do nothing, and say the names"
    )


# ---- The commands ------------------------------------------------------------------------


def _ls(asked: argparse.Namespace) -> None:
    fs, path = mlartifacts.url_to_fs(asked.uri)
    if asked.recursive:
        found = fs.find(path, detail=True)
        if not found:
            fs.info(path)  # which says what is not there
        infos = list(found.values())
    else:
        infos = fs.ls(path, detail=True)
    above = f"{path.rstrip('/')}/" if path else ""
    for info in sorted(infos, key=lambda info: info["name"]):
        own = info["name"]
        name = own.removeprefix(above) if own != path else own.rpartition("/")[2]
        _say(f"{_about(info) if asked.long else ''}{_named(name, info)}")


def _cat(asked: argparse.Namespace) -> None:
    for uri in asked.uri:
        with mlartifacts.open(uri) as file:
            shutil.copyfileobj(file, _output().buffer, _PIECE)
    _output().flush()


def _cp(asked: argparse.Namespace) -> None:
    report = mlartifacts.copy(
        asked.source, asked.target, overwrite=asked.overwrite, **_patterns(asked)
    )
    _say_moved(report, asked)


def _sync(asked: argparse.Namespace) -> None:
    report = mlartifacts.sync(asked.source, asked.target, delete=asked.delete, **_patterns(asked))
    _say_moved(report, asked)


def _rm(asked: argparse.Namespace) -> None:
    _say_moved(mlartifacts.delete(asked.uri, **_patterns(asked)), asked)


def _resolve(asked: argparse.Namespace) -> None:
    _say(mlartifacts.resolve(asked.uri))


def _serve(asked: argparse.Namespace) -> None:
    from mlartifacts.server.running import run

    run(asked.uri, asked.host, asked.port)


# ---- What is said ------------------------------------------------------------------------


def _patterns(asked: argparse.Namespace) -> dict[str, Any]:
    return {"include": asked.include, "exclude": asked.exclude, "dry_run": asked.dry_run}


def _say_moved(report: mlartifacts.Report, asked: argparse.Namespace) -> None:
    if asked.dry_run:
        for name in report.moved:
            _say(name or report.place)
        for name in report.deleted:
            _say(f"{name} (deleted)")


def _output() -> TextIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "the standard output is closed")
    return sys.stdout


def _say(line: str, stream: TextIO | None = None) -> None:
    stream = stream or _output()
    if stream.isatty():  # which a name may want to command
        line = "".join(each if each.isprintable() else "?" for each in line)
    # A name that is no UTF-8 is written as it was read.
    stream.buffer.write(f"{line}\n".encode(errors="surrogateescape"))
    stream.flush()


def _about(info: dict[str, Any]) -> str:
    from mlartifacts.transfer.trees import File

    if info["type"] == "directory":
        return f"{'':>14}  {'':19}  "
    modified, when = File.listed("", info).modified, ""
    if modified is not None:
        with contextlib.suppress(ValueError, OverflowError):  # a time that no calendar has
            when = f"{datetime.datetime.fromtimestamp(modified):%Y-%m-%d %H:%M:%S}"
    size = "" if info["size"] is None else info["size"]
    return f"{size:>14}  {when:19}  "


def _named(name: str, info: dict[str, Any]) -> str:
    return f"{name.rstrip('/')}/" if info["type"] == "directory" else name


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
