"""A forge that keeps comments as GitHub and GitLab do."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Forge:
    """Comments in the order of their ids, the token that may write them, and the paths that were asked."""

    url: str = ""
    token: str = "right"  # noqa: S105 - nobody's
    comments: list[dict[str, object]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def forge() -> Iterator[Forge]:
    """It runs, and has no comments yet."""
    kept = Forge()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kept.paths.append(urlsplit(self.path).path)
            asked = parse_qs(urlsplit(self.path).query)
            page, size = int(asked["page"][0]), int(asked["per_page"][0])
            self._answer(200, kept.comments[(page - 1) * size : page * size])

        def do_POST(self) -> None:
            if kept.token not in str(self.headers):
                self._answer(403, {"message": "Resource not accessible by integration"})
                return
            kept.comments.append({"id": 1000 + len(kept.comments), "body": self._body()})
            self._answer(201, kept.comments[-1])

        def do_PATCH(self) -> None:
            number = int(re.findall(r"\d+$", self.path)[0])
            next(one for one in kept.comments if one["id"] == number)["body"] = self._body()
            self._answer(200, {})

        do_PUT = do_PATCH  # noqa: N815 - the server's name

        def _body(self) -> str:
            return str(json.loads(self.rfile.read(int(self.headers["content-length"])))["body"])

        def _answer(self, status: int, value: object) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        kept.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield kept
        finally:
            server.shutdown()
