"""Addresses of pages: one canonical form for what is the same page, and the site it belongs to.

Canonical is what RFC 3986 (section 6) calls equivalent, and what a tracker or a scheme adds is left
out, as crawlers do. The site is the host without `www.`: without the list of public suffixes,
which changes weekly, no program can tell `a.co.uk` from `a.blogspot.com`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

#: What trackers put into a query; the page is the same without.
TRACKING = re.compile(
    r"(utm|mtm|pk|hsa)_.*|[gdyft][bwt]?clid|msclkid|gclsrc|epik|igshid|mc_[ce]id|_ga|_gl|ref_src",
    re.IGNORECASE,
)
#: What needs no escape there.
IN_PATH, IN_QUERY = "!$&'()*+,;=:@", "!$'()*,;:@/?"
_PORTS = {"http": 80, "https": 443}
_SITE_PREFIX = re.compile(r"^(www\d?|m|mobile|amp)\.(?=[^.]+\.)")


@dataclass(frozen=True)
class PageUrl:
    """`canonical`, in which equal pages are equal, and `domain`, the host of its site."""

    canonical: str
    domain: str


def parse_url(text: str | None) -> PageUrl | None:
    """The canonical form and the site of an address; None for what is no address of the web.

    An address without a scheme (`example.org/x`) is one. http and https are one, the host is in
    lower case, default ports, fragments, names, passwords, trackers' parameters and a trailing
    slash go, dots in the path are followed, escapes are written in one way, and the query's
    parameters are sorted.
    """
    split = _split((text or "").strip())
    host = _host(split) if split else None
    if split is None or host is None:
        return None
    path = _path(split.path)
    query = _query(split.query)
    port = _port(split)
    canonical = f"https://{host}{port}{path}{'?' + query if query else ''}"
    return PageUrl(canonical, _SITE_PREFIX.sub("", host))


def _split(text: str) -> SplitResult | None:
    if text.startswith("//"):
        text = f"https:{text}"
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//|\d)", text):  # mailto: and the like, no port
        return None
    elif not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text = f"https://{text}"
    try:
        split = urlsplit(text)
        split.port  # noqa: B018  reading it checks it
    except ValueError:
        return None
    return split if split.scheme in _PORTS else None


def _host(split: SplitResult) -> str | None:
    host = (split.hostname or "").rstrip(".")
    try:
        host = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    return host if re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", host) else None


def _port(split: SplitResult) -> str:
    # Port 80 of https is no default, but nobody serves it; one scheme takes both away.
    return "" if split.port in (None, *_PORTS.values()) else f":{split.port}"


def _path(path: str) -> str:
    kept: list[bytes] = []
    for part in map(unquote_to_bytes, path.split("/")):
        if part == b"..":
            kept = kept[:-1]
        elif part not in (b"", b"."):
            kept.append(part)
    return "".join(f"/{quote(part, safe=IN_PATH)}" for part in kept)


def _query(query: str) -> str:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return "&".join(
        sorted(
            f"{_escaped(name)}{equals}{_escaped(value)}"
            for name, equals, value in pairs
            if not TRACKING.fullmatch(name)
        )
    )


def _escaped(part: str) -> str:
    """Escapes in capitals and where they are needed only; a plus in a query is a space."""
    return quote(unquote_to_bytes(part.replace("+", "%20")), safe=IN_QUERY)
