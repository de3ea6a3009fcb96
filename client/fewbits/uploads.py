"""Files go up once: hashed first, skipped when they are there, sent on from where a line broke (tus)."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fewbits.effects import Answer, Broken, Request, Send, Slice, Steps, Work
from fewbits.errors import InvalidInput, Refused
from fewbits.progress import Progress, Tell
from fewbits.sending import is_good, pause_or_raise, send

PIECE = 256 * 1024
TUS = {"tus-resumable": "1.0.0"}
CHUNK = {"content-type": "application/offset+octet-stream"}
CONFLICT = 409


def send_file(path: Path, tell: Tell) -> Steps[str]:
    """Have the service hold these bytes; returns their SHA-256 in hex.

    Raises:
        InvalidInput: There is no such file, it is empty, or it changed on the way.
    """
    sha256 = yield Work(partial(digest, path, tell))
    size = path.stat().st_size
    known = yield from _is_there(sha256)
    if known:
        tell(Progress("skipped", path.name, size, size))
    else:
        yield from _upload(path, size, sha256, tell)
    return str(sha256)


def digest(path: Path, tell: Tell) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        InvalidInput: It cannot be read, or is empty.
    """
    found, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        for piece in pieces(path, 0):
            found.update(piece)
            done += len(piece)
            tell(Progress("hashing", path.name, done, total))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if not total:
        raise InvalidInput(f"{path} is empty.")
    return found.hexdigest()


def pieces(path: Path, offset: int) -> Iterator[bytes]:
    """The bytes of a file from an offset on."""
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE):
            yield piece


def _is_there(sha256: str) -> Steps[bool]:
    """Whether the service has these bytes; a HEAD that is refused says not why, the next request will."""
    try:
        yield from send(Request("HEAD", f"/v1/blobs/{sha256}"))
    except Refused:
        return False
    return True


def _upload(path: Path, size: int, sha256: str, tell: Tell) -> Steps[None]:
    """Send a file by tus 1.0.0; only attempts in a row that bring nothing forward count as failed.

    Raises:
        InvalidInput: It is not the file any more that was hashed.
    """
    upload, offset = yield from _begin(path, size, sha256)
    fruitless = 0
    while offset < size:
        request = _rest(path, size, offset, upload, tell)
        outcome = yield Send(request)
        if not is_good(outcome):
            yield from _recover(path, request, outcome, fruitless)
        before, offset = offset, (yield from _offset(upload))
        fruitless = 0 if offset > before else fruitless + 1
    tell(Progress("uploading", path.name, size, size))


def _begin(path: Path, size: int, sha256: str) -> Steps[tuple[str, int]]:
    """Announce a file; returns the upload's path and how much of it is there."""
    metadata = {"filename": path.name, "sha256": sha256}
    pairs = [f"{name} {b64encode(value.encode()).decode()}" for name, value in metadata.items()]
    headers = {**TUS, "upload-length": str(size), "upload-metadata": ",".join(pairs)}
    answer = yield from send(Request("POST", "/v1/uploads", headers=headers))
    return answer.headers["location"], int(answer.headers["upload-offset"])


def _rest(path: Path, size: int, offset: int, upload: str, tell: Tell) -> Request:
    body = Slice(path, offset, lambda sent: tell(Progress("uploading", path.name, offset + sent, size)))
    headers = {**TUS, **CHUNK, "upload-offset": str(offset), "content-length": str(size - offset)}
    return Request("PATCH", upload, headers=headers, body=body)


def _recover(path: Path, request: Request, outcome: Answer | Broken, fruitless: int) -> Steps[None]:
    """Wait before the rest is sent, if that can help."""
    if isinstance(outcome, Answer) and outcome.status == CONFLICT:
        outcome = Broken("the upload goes on at another byte")
    try:
        yield from pause_or_raise(request, outcome, fruitless)
    except Refused as error:
        if error.code == "digest_mismatch":
            raise InvalidInput(f"{path} changed while it was sent; try again.") from error
        raise


def _offset(upload: str) -> Steps[int]:
    answer = yield from send(Request("HEAD", upload, headers=TUS))
    return int(answer.headers["upload-offset"])


def named_files(given: list[Path]) -> dict[str, Path]:
    """A version's files by their names: those given, what lies in a folder, external data beside a model.

    Raises:
        InvalidInput: There is no such file.
    """
    if len(given) == 1 and given[0].is_dir():
        found = {p.relative_to(given[0]).as_posix(): p for p in sorted(given[0].rglob("*")) if p.is_file()}
        if not any(name.endswith(".onnx") for name in found):
            raise InvalidInput(f"The folder {given[0]} holds no .onnx file.")
        return found
    missing = next((path for path in given if not path.is_file()), None)
    if missing:
        raise InvalidInput(f"There is no file {missing}. Give the path of an .onnx file, or an id: ver_…")
    beside = _external(given[0]) if len(given) == 1 else []
    return {path.name: path for path in [*given, *beside]}


def _external(model: Path) -> list[Path]:
    """External data under the names that exporters give it: model.onnx.data, model.onnx_data, model.data."""
    names = [f"{model.name}.data", f"{model.name}_data", f"{model.stem}.data"]
    return [path for path in (model.with_name(name) for name in names) if path.is_file()]
