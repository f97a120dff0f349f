"""Mozilla Data Collective: from an API key to an address that one archive can be downloaded from for a while.

Source: its OpenAPI description (mozilladatacollective.com/api/openapi.json), POST /datasets/{id}/download. The key and
the signed address are secrets: neither is in a message, nor in the repr of what is returned.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from urllib3 import exceptions

from manifests import web
from pipelines import http
from pipelines.http import Patience

SITE = "https://mozilladatacollective.com"
API = f"{SITE}/api"
KEY_VARIABLE = "MDC_API_KEY"
URL_VARIABLE = "MDC_API_URL"
KEYS_PAGE = f"{SITE}/profile/credentials"

AGAIN = (0, 429, 500, 502, 503, 504)  # answers that may change: no connection, too many requests, a busy server


@dataclass(frozen=True, slots=True)
class Offer:
    """An archive that may now be downloaded. `sha256` None: none was published."""

    size_bytes: int
    sha256: str | None
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said; status 0: it could not be asked."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def dataset_name(dataset: str) -> str:
    """The id or slug, of itself or of the address of the data set's page. Raises ValueError for none."""
    name = dataset.strip().rstrip("/").rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"--dataset {dataset}: is no name; give the last part of the address of the data set's page")
    return name


def request(dataset: str) -> Offer:
    """Ask for the archive of a data set, by its id or slug.

    Needs a key in the environment (MDC_API_KEY); MDC_API_URL names another server than Mozilla's. A busy server and a
    rate limit that ends soon are waited for. Raises ValueError of one line for what a person has to mend: no key or a
    wrong one, terms that were not accepted, no such data set, a limit that lasts.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ValueError(f"{KEY_VARIABLE} is not set; make a key at {KEYS_PAGE}, then: export {KEY_VARIABLE}=...")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{KEY_VARIABLE} holds characters that no key has; copy it again from {KEYS_PAGE}")
    base = os.environ.get(URL_VARIABLE, "").strip().rstrip("/") or API
    if not _is_private(base):
        raise ValueError(f"{URL_VARIABLE} {base}: must begin with https://, or the key could be read on the way")
    try:
        answer = _ask(f"{base}/datasets/{quote(name := dataset_name(dataset))}/download", key)
        if answer.status != 200:
            raise ValueError(_refusal(answer, name, base))
    except ValueError as err:  # a server may repeat what it was told
        raise ValueError(str(err).replace(key, "(the key)")) from None
    return _offer(answer.body, _host(base))


def _is_private(url: str) -> bool:
    """True for an address that nobody between here and there can listen in on."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _ask(url: str, key: str) -> _Answer:
    """The answer to a POST, after some waiting where that helps."""
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json", "User-Agent": "speechmill"}
    patience = Patience(_host(url))
    while True:
        try:  # without redirections: the key is for this server alone
            got = web.pool(url, http.CONNECT_S, http.READ_S).request("POST", url, headers=headers, redirect=False)
            answer = _Answer(got.status, got.data, got.headers)
        except exceptions.HTTPError as err:
            answer = _Answer(0, type(err).__name__.encode(), {})
        if answer.status not in AGAIN:
            return answer
        what = f"answers {answer.status}" if answer.status else "cannot be reached"
        if answer.status == 429:
            what = "allows no more downloads for now"
        patience.failed(f"{what} ({_words(answer.body)})", web.retry_after_s(answer.headers.get("Retry-After", "")))


def _refusal(answer: _Answer, dataset: str, base: str) -> str:
    """One line: what is wrong and what to do."""
    host, status, words = _host(base), answer.status, _words(answer.body)
    if status == 401:
        return f"{host}: does not accept the key in {KEY_VARIABLE} ({words}); make a new one at {KEYS_PAGE}"
    if status == 403:
        page = f"{base.removesuffix('/api')}/datasets/{dataset}"
        return f"{host}: refuses {dataset} ({words}); open {page}, accept its terms, then repeat the command"
    if status in (404, 410):
        return f"--dataset {dataset}: {host} has no such data set ({words}); it is the last part of its page's address"
    if 300 <= status < 400:
        target = urlsplit(answer.headers.get("Location", ""))
        return f"{host}: sends on to {target.scheme}://{_host(target.geturl())}; set {URL_VARIABLE} if that is right"
    return f"{host}: answers {status} ({words}); repeat it later, or download in a browser and say --archive FILE"


def _words(body: bytes) -> str:
    """What the server says itself: {"error": ...}, or the beginning of anything else, on one line."""
    text = body.decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except ValueError:
        said = text
    if isinstance(said, dict):
        said = said.get("error") or said.get("message") or text
    return " ".join(str(said).split())[:200] or "without a reason"


def _offer(body: bytes, host: str) -> Offer:
    """Raises ValueError for an answer without what is needed; it shows no value, as one of them is secret."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{host}: answers with something else than JSON; is {URL_VARIABLE} the address of its API?")
    url, size = str(said.get("downloadUrl") or ""), str(said.get("sizeBytes") or "")
    checksum = str(said.get("checksum") or "").strip().lower().removeprefix("sha256:")
    wrong = {
        "downloadUrl": not _is_private(url),
        "sizeBytes": not size.isdecimal(),
        "checksum": bool(checksum) and not re.fullmatch("[0-9a-f]{64}", checksum),
    }
    if any(wrong.values()):
        names = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
        raise ValueError(f"{host}: its answer has no usable {names}; the protocol may have changed")
    return Offer(int(size), checksum or None, url)
