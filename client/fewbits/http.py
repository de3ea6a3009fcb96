"""How requests and answers look to httpx; the same for both clients."""

import platform
from typing import Any

import httpx

from fewbits import __version__
from fewbits.effects import Answer, Broken, Request

CONNECT_S = 10.0


def options(url: str, key: str, *, local: bool) -> dict[str, Any]:
    """What an httpx client is made with; a proxy that the environment names is not for this computer."""
    agent = f"fewbits/{__version__} python/{platform.python_version()}"
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {key}", "user-agent": agent},
        "trust_env": not local,
        "follow_redirects": False,
    }


def words(request: Request) -> dict[str, Any]:
    """What a request is made of, but for a body."""
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "headers": dict(request.headers),
        "timeout": httpx.Timeout(request.patience_s, connect=CONNECT_S),
        "follow_redirects": request.into is not None,  # files may lie elsewhere, where the key is not sent
        **({} if request.json is None else {"json": request.json}),
    }


def head_of(response: httpx.Response) -> Answer:
    """An answer before its body was read; its ETag is the service's, wherever the bytes come from."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.history:
        headers["etag"] = response.history[0].headers.get("etag", "")
    return Answer(response.status_code, headers)


def broken(error: httpx.HTTPError) -> Broken:
    """What became of the connection, in words."""
    if isinstance(error, httpx.ConnectError):
        return Broken(f"no connection to {error.request.url.netloc.decode()} ({error})")
    if isinstance(error, httpx.TimeoutException):
        return Broken("the service did not answer in time")
    return Broken(f"the connection broke ({error or type(error).__name__})")


def is_stream(answer: Answer) -> bool:
    """Whether a stream of events was opened."""
    kind = answer.headers.get("content-type", "")
    return answer.status == httpx.codes.OK and kind.startswith("text/event-stream")
