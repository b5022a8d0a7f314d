"""One image from one URL: bounded in time, size and attempts."""

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import minimagen
from minimagen.data.images.decoding import BadImageError, load_rgb
from minimagen.errors import UserError

if TYPE_CHECKING:
    import urllib3

TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be another one in a moment
CHUNK = 2**16
HEADERS = {
    "User-Agent": f"minimagen-cascade/{minimagen.__version__}",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True)
class Limits:
    """What one image may cost; times are in seconds."""

    connect: float = 5.0  # until there must be a connection
    silence: float = 10.0  # without a byte
    total: float = 30.0  # in which one attempt must have read all
    max_bytes: int = 20 * 2**20  # of the image file
    redirects: int = 5  # from one URL to the next
    tries: int = 3
    pause: float = 1.0  # before the second attempt, doubled before each further one
    longest_pause: float = 30.0  # also where a server's Retry-After asks for more


class FetchError(Exception):
    """Why a URL gave no image."""


def fetch_image(url: str, limits: Limits) -> bytes:
    """Return the image file at a URL, decoded once to see that it is one.

    Raises:
        FetchError: there is none.
        UserError: the library that fetches is not installed.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise FetchError("not an http URL")
    try:
        from urllib3.exceptions import HTTPError, MaxRetryError
    except ImportError:
        raise UserError("fetching images needs urllib3: pip install urllib3") from None
    try:
        content = _fetch(url, limits)
        load_rgb(content, "the file")
    except BadImageError as error:
        raise FetchError(str(error)) from None
    except MaxRetryError as error:
        reason = error.reason
        short = str(reason).startswith(("too many redirects", "slower than"))
        raise FetchError(str(reason) if short else type(reason).__name__) from None
    except (HTTPError, ValueError) as error:  # ValueError: no URL after all
        raise FetchError(f"{type(error).__name__}: {error}") from None
    return content


def _fetch(url: str, limits: Limits) -> bytes:
    from urllib3 import Retry, Timeout
    from urllib3.exceptions import ProtocolError, ReadTimeoutError

    more = limits.tries - 1
    retries = Retry(
        *(None, more, more, limits.redirects, more, more),  # total, connect, read, ...
        allowed_methods=None,
        status_forcelist=TRY_AGAIN,
        raise_on_status=False,
        backoff_factor=limits.pause,
        backoff_max=limits.longest_pause,
        retry_after_max=int(limits.longest_pause),
    )
    timeout = Timeout(connect=limits.connect, read=limits.silence)
    pool = _pool(_proxy(url))
    while True:
        response = pool.request(
            "GET", url, headers=HEADERS, retries=retries, timeout=timeout, preload_content=False
        )
        try:
            return _body(response, limits)
        except (ProtocolError, ReadTimeoutError) as error:  # urllib3 has retried up to the body
            retries = (response.retries or retries).increment("GET", url, error=error)
            retries.sleep()
        finally:
            response.close()


def _body(response: "urllib3.BaseHTTPResponse", limits: Limits) -> bytes:
    """Read what comes, whatever length was announced."""
    from urllib3.exceptions import ProtocolError

    if response.status != 200:
        raise FetchError(f"HTTP {response.status}")
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:18]) > limits.max_bytes:
        raise FetchError(f"more than {limits.max_bytes} bytes")
    started, parts, size = time.monotonic(), [], 0
    # read1 returns what is there; read would wait for a full chunk, however slowly it drips.
    while part := response.read1(CHUNK):
        parts.append(part)
        size += len(part)
        if size > limits.max_bytes:
            raise FetchError(f"more than {limits.max_bytes} bytes")
        if time.monotonic() - started > limits.total:
            raise ProtocolError(f"slower than {limits.total:g} s")
    return b"".join(parts)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


@cache
def _pool(proxy: str | None) -> "urllib3.PoolManager":
    import urllib3

    return urllib3.PoolManager(maxsize=32) if proxy is None else urllib3.ProxyManager(proxy)
