"""Download pictures once into a cache; only where a recipe allows it.

A URL comes from a row, so it is not trusted: a server may be slow without an end, cut its response,
or send the request on to a machine that only this one can reach.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.cache_folder import cache_folder
from dsvl_tune.core.storage.files import write_cached

MAX_BYTES = 50_000_000
"""A longer response is refused."""
TIMEOUT_S = 30.0
"""Longest silence of a server."""
DEADLINE_S = 120.0
"""Longest time for one picture, names and redirects included."""
BLOCK_BYTES = 1 << 16
SAFE_CHARACTERS = "%/:=&?~#+!$,;'@()*[]-._"
"""Characters of a URL that stay as they are: those with a meaning in it, and quoted ones."""
Check = Callable[[bytes], object]
"""Raises UserError unless the bytes are a picture."""


def downloaded(url: str, where: str, check: Check) -> bytes:
    """A picture, from the cache if it has been downloaded before.

    Args:
        url: of the picture.
        where: row and image, for the error.
        check: what is downloaded must pass it before it is cached.

    Raises:
        UserError: it cannot be downloaded, is too large, cut, or no picture.
    """
    path = cache_folder("pictures") / hashlib.sha256(url.encode()).hexdigest()
    with suppress(OSError):
        return path.read_bytes()
    content = fetch(url, where)
    check(content)
    with suppress(OSError):  # a cache that cannot be written is gone without
        write_cached(path, lambda partial: partial.write_bytes(content))
    return content


def fetch(url: str, where: str) -> bytes:
    """The response of a URL, whole.

    Args:
        url: to read.
        where: row and image, for the error.

    Raises:
        UserError: it cannot be downloaded, is too large, cut, or takes too long.
    """
    found: list[bytes | BaseException] = []

    def work() -> None:
        try:
            found.append(read_url(url, where))
        except BaseException as error:
            found.append(error)

    # A thread, because neither name resolution nor a header sent byte by byte has a time limit.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    if not found:
        raise failed(where, f"not done after {DEADLINE_S:.0f} s")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def read_url(url: str, where: str) -> bytes:
    """The response of a URL, as in `fetch`, but without the limit on the whole time."""
    opener = urllib.request.build_opener(PublicRedirects())
    end = time.monotonic() + DEADLINE_S
    try:
        address = quote(url, safe=SAFE_CHARACTERS)
        refuse_link_local(address)
        with opener.open(address, timeout=TIMEOUT_S) as response:
            return read_response(response, where, end)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise failed(where, str(error) or type(error).__name__) from None


def read_response(response: HTTPResponse, where: str, end: float) -> bytes:
    """The body of a response.

    Raises:
        UserError: it is too long, shorter than its header says, or takes too long.
    """
    content = bytearray()
    while block := response.read1(BLOCK_BYTES):
        content += block
        if len(content) > MAX_BYTES:
            raise UserError(f"{where}: more than {MAX_BYTES // 10**6} MB. Save a smaller one.")
        if time.monotonic() > end:
            raise failed(where, f"not done after {DEADLINE_S:.0f} s")
    expected = response.headers.get("Content-Length")
    if expected is not None and expected.isdecimal() and int(expected) != len(content):
        raise failed(where, f"{len(content):,} of {int(expected):,} bytes came")
    return bytes(content)


def failed(where: str, reason: str) -> UserError:
    """The error for a picture that could not be downloaded."""
    return UserError(
        f"{where}: cannot be downloaded ({reason}). Save it below the images' root folder, or try "
        "again."
    )


class PublicRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to public addresses alone."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Refuse what only this machine or its network can reach."""
        for address in addresses(newurl):
            if not address.is_global or address.is_multicast:
                raise urllib.error.URLError(
                    f"redirected to {urlsplit(newurl).hostname}, an address in a private network"
                )
        quoted = quote(newurl, safe=SAFE_CHARACTERS)
        return super().redirect_request(req, fp, code, msg, headers, quoted)


def refuse_link_local(url: str) -> None:
    """Raise if a URL names an address of the link itself, where clouds serve credentials.

    Other private addresses may be meant: a server of pictures in the same network.
    """
    for address in addresses(url):
        if address.is_link_local or address.is_unspecified or address.is_multicast:
            raise urllib.error.URLError(f"{urlsplit(url).hostname} is no address of a server")


def addresses(url: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of a URL's host."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("the URL has no host")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except OSError:  # only a proxy knows the name, or nobody does, which the request will say
        return []
    plain = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in plain]
