"""What goes wrong with object stores: errors of one line that say what to do, and patience with what may pass.

A URL's query may be a signature and its login a password: nothing that is shown has them.
"""

import contextlib
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

TRIES = 14  # in a row that bring nothing: about a minute, of a server that answers at once
PAUSE_S = 0.05  # after the first of them, then twice as long each time
UNDER_WAY_BYTES = 64 << 10  # after a failure before which so much came there is no pause
PAUSE_LIMIT_S = 15.0
TELL_S = 1.0  # when nothing has come for so long, the user is told

_LOGIN = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles in ~/.aws are not read), or AWS_SKIP_SIGNATURE=true "
    "for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, the path of a key file, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for a public "
    "container",
}
# Variables that name another server than the cloud's; the first one that is set counts.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_BUSY = (408, 425, 429)  # and all of 5xx
_PASSES = ("Connect", "Request", "Timeout", "Interrupted", "Decode")  # kinds of HTTP errors in obstore's texts
# Where clouds give their own machines credentials; elsewhere nobody answers there, or a firewall does.
_METADATA = ("169.254.169.254", "metadata.google.internal", "token request")
_HALF_SET = ("Account must be specified", "Missing AccessKeyId", "Missing SecretAccessKey")  # one of two variables


class Broken(OSError):
    """A failure that may pass."""


class Tries:
    """How often something may fail: TRIES times in a row, where progress ends the row."""

    def __init__(self, shown_url: str, on_retry: Callable[[str], None]) -> None:
        self._shown_url = shown_url
        self._on_retry = on_retry
        self._in_a_row = 0
        self._came_bytes = 0  # since the last failure
        self._came_s = time.monotonic()

    def progressed(self, count_bytes: int) -> None:
        self._in_a_row = 0
        self._came_s = time.monotonic()
        self._came_bytes += count_bytes

    def failed(self, broken: Broken) -> None:
        """Wait a while. Raises OSError when that was the last try, and what `on_retry` raises."""
        self._in_a_row += 1
        if self._in_a_row >= TRIES:
            raise OSError(f"{broken}; gave up after {TRIES} tries") from None
        self._on_retry(str(broken))
        came_bytes, self._came_bytes = self._came_bytes, 0
        if came_bytes >= UNDER_WAY_BYTES:
            return
        pause_s = min(PAUSE_LIMIT_S, PAUSE_S * 2 ** (self._in_a_row - 1)) * random.uniform(0.5, 1.0)
        if time.monotonic() - self._came_s + pause_s >= TELL_S:
            print(f"{broken}; trying again in {pause_s:.0f} s", file=sys.stderr, flush=True)
        time.sleep(pause_s)


def shown(url: str) -> str:
    """A URL as it may be shown and kept: without login, and a web server's without query."""
    if "://" not in url:
        return url
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https"):
        rest = re.sub(r"(\?|#(?!\d+\+\d+/)).*", "", rest, flags=re.DOTALL)  # what follows a tar's # is a member of it
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


@contextlib.contextmanager
def os_errors(url: str, writes: bool = False) -> Iterator[None]:
    """What obstore raises in the block becomes an OSError of one line; Broken for what may pass.

    `writes`: the block uses one of its writers, which raise plain OSErrors.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as err:
        raise _os_error(url, str(err)) from None
    except FileNotFoundError as err:
        raise _missing(url, str(err)) from None
    except OSError as err:
        raise (_os_error(url, str(err)) if writes else err) from None
    except ValueError as err:  # a key that no store has, such as one with "//"
        raise ValueError(f"{shown(url)}: {_clean(str(err))}") from None


def _missing(url: str, text: str) -> OSError:
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return _no_bucket(url)
    if "uploadId=" in text:  # the answer was lost, and the store had forgotten the upload when it was asked again
        return OSError(f"{shown(url)}: the store does not say whether the upload was completed; write it again")
    if "performing PUT" in text or "performing POST" in text:
        return _no_bucket(url)
    return FileNotFoundError(f"{shown(url)}: there is no such file")


def _no_bucket(url: str) -> OSError:
    """No FileNotFoundError: where one file of many may be missing, all of them are."""
    parts = urlsplit(url)
    return OSError(f"{shown(url)}: there is no bucket {parts.netloc.rpartition('@')[2]}{_where(url)}")


def _os_error(url: str, text: str) -> OSError:
    scheme = url.partition("://")[0]
    if any(sign in text for sign in (*_METADATA, *_HALF_SET)):
        return OSError(f"{shown(url)}: no credentials; set {_LOGIN.get(scheme, 'them')}")
    if "redirect without LOCATION" in text or "AuthorizationHeaderMalformed" in text or "PermanentRedirect" in text:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return OSError(f"{shown(url)}: the bucket is in another region than {region}; set AWS_REGION to its own")
    if status := re.search(r"status code: (\d{3})", text):
        return _answered(url, int(status[1]), text)
    if "InvalidCertificate" in text or "invalid peer certificate" in text:
        return OSError(f"{shown(url)}: no secure connection: the server's certificate is not trusted")
    if kind := re.search(r"\bkind: (" + "|".join(_PASSES) + r"),", text):
        return Broken(f"{shown(url)}: {_broken(kind[1], text)}{_where(url)}")
    if "Unable to recognise URL" in text:
        return OSError(f"{shown(url)}: is not read; URLs begin with s3://, gs://, az://, http:// or https://")
    if "Content-Length Header missing" in text:
        return OSError(f"{shown(url)}: the server does not say how long the file is; download it, and give its path")
    return OSError(f"{shown(url)}: {_clean(text)}")


def _broken(kind: str, text: str) -> str:
    if "TimedOut" in text or kind == "Timeout":
        return "nothing came for too long"
    return "no connection" if kind == "Connect" else "the connection was cut"


def _answered(url: str, status: int, text: str) -> OSError:
    """The error for an answer of the store that is no success."""
    scheme = url.partition("://")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    answer = f"{shown(url)}: the server answers {status}" + (f" ({code[1]})" if code else "")
    if status in _BUSY or status >= 500:
        return Broken(answer)
    if status in (401, 403) and scheme in _LOGIN:
        return OSError(f"{answer}: these credentials may not do this here; they come from {_LOGIN[scheme]}")
    if status in (401, 403):
        return OSError(f"{answer}: it does not give the file away; a signed URL may have ended")
    if status == 404 and scheme in _LOGIN:
        return _no_bucket(url)
    return OSError(answer)


def check_endpoint(url: str) -> None:
    """Raises ValueError for an endpoint of this URL's store that is none: obstore would crash on it."""
    for name in _ENDPOINTS.get(url.partition("://")[0], ()):
        endpoint = os.environ.get(name)
        if endpoint is not None and not re.match("https?://[^/]", endpoint):
            raise ValueError(f"{name} is {shown(endpoint)!r}; write a URL, such as http://127.0.0.1:9000, or unset it")


def _where(url: str) -> str:
    """The endpoint, where the user has set one."""
    for name in _ENDPOINTS.get(url.partition("://")[0], ()):
        if endpoint := os.environ.get(name):
            return f" at {shown(endpoint)} ({name})"
    return ""


def _clean(text: str) -> str:
    """The first line of obstore's text, without what its URLs may hold."""
    return re.sub(r"\w+://\S+", lambda match: shown(match[0]), text.splitlines()[0])
