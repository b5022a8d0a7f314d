"""One picture from one address: bounded in time, size and patience."""

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import local
from typing import TYPE_CHECKING

import minimagen
from minimagen.data.images.decoding import BadImageError, load_rgb
from minimagen.errors import UserError

if TYPE_CHECKING:
    import requests

TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # what may be otherwise in a moment
CHUNK = 2**16
AGENT = f"minimagen-cascade/{minimagen.__version__}"


@dataclass(frozen=True)
class Limits:
    """What one picture may cost.

    Attributes:
        connect: seconds until there must be a connection.
        silence: seconds without a byte.
        total: seconds of one attempt.
        max_bytes: of the picture file.
        redirects: from one address to the next.
        tries: attempts at most.
        pause: seconds before the second attempt, doubled before each further one.
        longest_pause: seconds that a server's Retry-After may ask for.
    """

    connect: float = 5.0
    silence: float = 10.0
    total: float = 30.0
    max_bytes: int = 20 * 2**20
    redirects: int = 5
    tries: int = 3
    pause: float = 1.0
    longest_pause: float = 30.0


class FetchError(Exception):
    """Why an address gave no picture; ``again`` if it may give one after ``pause`` seconds."""

    def __init__(self, reason: str, again: bool = False, pause: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.pause = again, pause


def fetch_picture(url: str, limits: Limits) -> bytes:
    """Return the picture file at an address, decoded once to see that it is one.

    Raises:
        FetchError: there is none.
        UserError: the library that fetches is not installed.
    """
    for attempt in range(1, limits.tries + 1):
        try:
            content = _fetch(url, limits)
            load_rgb(content, "picture")
            return content
        except BadImageError as error:
            raise FetchError(str(error)) from None
        except FetchError as error:
            if not error.again or attempt == limits.tries:
                raise
            pause = limits.pause * 2 ** (attempt - 1) if error.pause is None else error.pause
            time.sleep(min(pause, limits.longest_pause))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _fetch(url: str, limits: Limits) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise FetchError("not an http address")
    session = _session(limits.redirects)
    import requests
    from urllib3.exceptions import HTTPError, LocationValueError

    try:
        timeout = (limits.connect, limits.silence)
        with session.get(url, stream=True, timeout=timeout) as response:
            _check_answer(response, limits)
            return _body(response, limits)
    except requests.TooManyRedirects:
        raise FetchError(f"more than {limits.redirects} redirects") from None
    except (requests.exceptions.InvalidURL, LocationValueError, UnicodeError) as error:
        raise FetchError(f"not an address: {error}") from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise FetchError("redirected to what is not an http address") from None
    except (requests.RequestException, HTTPError) as error:
        raise FetchError(type(error).__name__, again=True) from None


def _check_answer(response: "requests.Response", limits: Limits) -> None:
    status = response.status_code
    if status in TRY_AGAIN:
        raise FetchError(f"HTTP {status}", True, retry_after(response.headers.get("Retry-After")))
    if status != 200:
        raise FetchError(f"HTTP {status}")
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:18]) > limits.max_bytes:
        raise FetchError(f"more than {limits.max_bytes} bytes")


def _body(response: "requests.Response", limits: Limits) -> bytes:
    """Read what comes, whatever length was announced."""
    started, parts, size = time.monotonic(), [], 0
    # read1 returns what is there; read would wait for a full chunk, however slowly it drips.
    while part := response.raw.read1(CHUNK):
        parts.append(part)
        size += len(part)
        if size > limits.max_bytes:
            raise FetchError(f"more than {limits.max_bytes} bytes")
        if time.monotonic() - started > limits.total:
            raise FetchError(f"slower than {limits.total:g} s", again=True)
    return b"".join(parts)


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for; None if it says nothing sensible."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


_sessions = local()  # requests does not promise that threads may share one


def _session(redirects: int) -> "requests.Session":
    if not hasattr(_sessions, "session"):
        try:
            import requests
        except ImportError:
            raise UserError("fetching pictures needs requests: pip install requests") from None
        _sessions.session = requests.Session()
        _sessions.session.headers.update({"User-Agent": AGENT, "Accept-Encoding": "identity"})
    _sessions.session.max_redirects = redirects
    return _sessions.session
