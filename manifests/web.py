"""Requests over http(s), few and long ones: proxies of the environment, what fails, and whether it may pass.

Source: RFC 9110, section 10.2.3 (Retry-After). A URL's query may be a secret, as in pre-signed URLs: nothing that is
shown has it.
"""

import contextlib
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions

from manifests.storefaults import shown

BUSY = (408, 425, 429)  # and all of 5xx


class Cut(Exception):
    """The bytes ended early, or did not come, for a reason that may pass. `after_s`: how long the server wants to be
    left alone."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


def named(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)


def retry_after_s(value: str) -> float | None:
    """Seconds, or a date; None for neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):  # no date, or none that this machine can count
        return None


def pool(url: str, connect_s: float, read_s: float) -> urllib3.PoolManager:
    """A new one for each request. `read_s`: without a single byte."""
    retries = urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False)
    settings: dict[str, Any] = {"timeout": urllib3.Timeout(connect=connect_s, read=read_s), "retries": retries}
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme, "")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return urllib3.PoolManager(**settings)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    login = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **settings)


@contextlib.contextmanager
def failures(url: str, connect_s: float, read_s: float) -> Iterator[None]:
    """What urllib3 raises becomes a Cut, or a ValueError where another try will not help. Its texts may hold URLs."""
    try:
        yield
    except exceptions.HTTPError as err:
        cause = err.reason if isinstance(err, exceptions.MaxRetryError) and err.reason else err
        if isinstance(cause, exceptions.SSLError):
            raise ValueError(f"{shown(url)}: no secure connection ({cause})") from None
        if isinstance(cause, exceptions.LocationValueError | exceptions.ResponseError):
            raise ValueError(f"{shown(url)}: leads nowhere: a redirection that is wrong, or too many") from None
        raise Cut(_cause(cause, connect_s, read_s)) from None


def _cause(err: Exception, connect_s: float, read_s: float) -> str:
    if isinstance(err, exceptions.ProxyError):
        return "the proxy does not connect"
    if isinstance(err, exceptions.NameResolutionError):
        return "no address is known for this host"
    if isinstance(err, exceptions.NewConnectionError):
        return str(err).rpartition(": ")[2].rpartition("] ")[2]  # "...: [Errno 111] Connection refused"
    if isinstance(err, exceptions.ConnectTimeoutError):
        return f"no answer within {connect_s:g} s"
    if isinstance(err, exceptions.ReadTimeoutError):
        return f"nothing came for {read_s:g} s"
    return "the connection was cut"
