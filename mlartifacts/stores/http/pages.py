"""What the HTML pages of web servers say of directories."""

from __future__ import annotations

import html
import re
from urllib.parse import unquote

__all__ = ["is_index", "links"]

_LINK = re.compile(r"""<a\s[^>]*?\bhref\s*=\s*(["'])(.*?)\1""", re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
# Apache, nginx and lighttpd; Python and Tomcat; Jetty; Node's serve-index.
_INDEX = re.compile(
    r"(?:index of|directory listing for|directory:|listing directory)\s+\[?(/.*?)\]?",
    re.IGNORECASE,
)


def links(page: str) -> list[str]:
    """What a page links to, in its order."""
    return [html.unescape(link[2]) for link in _LINK.finditer(page)]


def is_index(page: str, host: str, path: str) -> bool:
    """Whether a page is a web server's own list of just this directory, and not a login page, say.

    Parameters
    ----------
    page : str
    host : str
        Whose page it is: IIS writes it before the path.
    path : str
        The directory's, percent-encoded, with a slash at its end.
    """
    headings = [
        " ".join(html.unescape(_TAG.sub("", text)).split()) for _, text in _HEADING.findall(page)
    ]
    named = unquote(path)
    # Caddy shows the path alone.
    return any(
        heading in {named, f"{host} - {named}"}
        or ((found := _INDEX.fullmatch(heading)) and f"{found[1].rstrip('/')}/" == named)
        for heading in headings
    )
