"""Addresses that are the same page have one canonical form, and it stays as it is."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provender.producers.linksage.page_urls import parse_url


@pytest.mark.parametrize(
    ("url", "canonical", "domain"),
    [
        ("example.org:8080/x", "example.org:8080/x", "example.org"),
        ("HTTP://www.Example.org:80/a/./b/../c/?b=2&a=1#top", "www.example.org/a/c?a=1&b=2",
         "example.org"),
        ("example.org", "example.org", "example.org"),
        ("//shop.example.org/x", "shop.example.org/x", "shop.example.org"),
        ("https://me:secret@example.org:8443/", "example.org:8443", "example.org"),
        ("https://example.org/?utm_source=p&fbclid=1&gclid=2&id=7&TTCLID=3", "example.org?id=7",
         "example.org"),
        ("https://m.example.org/%7euser/%2f", "m.example.org/~user/%2F", "example.org"),
        ("https://example.org/a b?q=c+d&r=%2B", "example.org/a%20b?q=c%20d&r=%2B", "example.org"),
        ("https://bücher.example/ü", "xn--bcher-kva.example/%C3%BC", "xn--bcher-kva.example"),
        ("https://m.org/x", "m.org/x", "m.org"),
        ("https://example.org/%2e%2e/%2E/a", "example.org/a", "example.org"),
        ("https://example.org./a//b", "example.org/a/b", "example.org"),
    ],
)  # fmt: skip
def test_the_canonical_form(url: str, canonical: str, domain: str) -> None:
    found = parse_url(url)
    assert found is not None
    assert (found.canonical, found.domain) == (f"https://{canonical}", domain)


@pytest.mark.parametrize(
    "url",
    [None, "", "  ", "nothing", "ftp://example.org", "https://", "https://a.b:port/", "https://[::1/",
     "mailto:me@example.org", "https://exa mple.org", "https://..", "javascript://x.y/"],
)  # fmt: skip
def test_what_is_no_address_of_the_web(url: str | None) -> None:
    assert parse_url(url) is None


PARTS = st.text(max_size=8)
URLS = st.builds(
    lambda scheme, path, query, raw: (
        f"{scheme}www.example.org/"
        + "/".join(part if raw else quote(part) for part in path)
        + ("?" + "&".join(f"{a}={b}" for a, b in query) if query else "")
    ),
    st.sampled_from(["", "http://", "https://", "HTTPS://"]),
    st.lists(PARTS, max_size=4),
    st.lists(st.tuples(PARTS, PARTS), max_size=4),
    st.booleans(),
)


@given(URLS)
def test_the_canonical_form_of_a_canonical_form_is_itself(url: str) -> None:
    once = parse_url(url)
    assert once is not None
    assert parse_url(once.canonical) == once


@given(st.text())
def test_nothing_makes_it_fail(text: str) -> None:
    found = parse_url(text)
    assert found is None or parse_url(found.canonical) == found
