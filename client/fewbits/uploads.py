"""Files go up once: hashed first, skipped when they are there, sent on from where a line broke (tus)."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fewbits import unfinished
from fewbits.effects import Answer, Broken, Request, Send, Sender, Slice, Steps, Work
from fewbits.errors import InvalidInput, Refused
from fewbits.progress import Progress, Tell
from fewbits.sending import PATIENT_ATTEMPTS, header, is_good, pause_or_raise, send

PIECE = 256 * 1024
TUS = {"tus-resumable": "1.0.0"}
CHUNK = {"content-type": "application/offset+octet-stream"}
CONFLICT = 409


@dataclass(frozen=True)
class Hashed:
    """A file as it was when it was hashed."""

    path: Path
    size: int
    sha256: str


def send_file(path: Path, tell: Tell) -> Steps[str]:
    """Have the service hold these bytes; returns their SHA-256 in hex.

    Raises:
        InvalidInput: There is no such file, it is empty, or it changed on the way.
    """
    file: Hashed = yield Work(partial(hashed, path, tell))
    if (yield from _is_there(file.sha256)):
        tell(Progress("skipped", path.name, file.size, file.size))
    else:
        yield from _upload(file, tell)
    return file.sha256


def hashed(path: Path, tell: Tell) -> Hashed:
    """Read a file once, for its SHA-256.

    Raises:
        InvalidInput: It cannot be read, or is empty.
    """
    digest, done = hashlib.sha256(), 0
    with _reading(path) as file:
        total = path.stat().st_size
        while piece := file.read(PIECE):
            digest.update(piece)
            done += len(piece)
            tell(Progress("hashing", path.name, done, total))
    if not done:
        raise InvalidInput(f"{path} is empty.")
    return Hashed(path, done, digest.hexdigest())


def content(body: Slice) -> Iterator[bytes]:
    """The bytes to send, piece by piece.

    Raises:
        InvalidInput: The file is gone, or has fewer bytes than it had.
    """
    done = 0
    with _reading(body.path) as file:
        file.seek(body.offset)
        while done < body.size:
            piece = file.read(min(PIECE, body.size - done))
            if not piece:
                raise InvalidInput(_changed(body.path))
            yield piece
            done += len(piece)
            body.told(done)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error


def _changed(path: Path) -> str:
    return f"{path} changed while it was sent; try again."


def _is_there(sha256: str) -> Steps[bool]:
    """Whether the service has these bytes; a HEAD that is refused says not why, the next request will."""
    try:
        yield from send(Request("HEAD", f"/v1/blobs/{sha256}"))
    except Refused:
        return False
    return True


def _upload(file: Hashed, tell: Tell) -> Steps[None]:
    """Send a file by tus 1.0.0; only attempts in a row that bring nothing forward count as failed.

    Raises:
        InvalidInput: It is not the file any more that was hashed.
    """
    sender: str = yield Sender()
    upload, offset = yield from _place(file, sender)
    fruitless = 0
    while offset < file.size:
        request = _rest(file, offset, upload, tell)
        outcome = yield Send(request)
        if not is_good(outcome):
            yield from _recover(file, request, outcome, fruitless)
        before, offset = offset, (yield from _offset(upload))
        fruitless = 0 if offset > before else fruitless + 1
        tell(Progress("uploading", file.path.name, offset, file.size))
    yield Work(partial(unfinished.forget, sender, file.sha256))


def _place(file: Hashed, sender: str) -> Steps[tuple[str, int]]:
    """An upload's path and how much of it is there: the one that an earlier process began, else a new one."""
    known: str | None = yield Work(partial(unfinished.recall, sender, file.sha256))
    if known:
        with suppress(Refused):  # the service has forgotten it
            offset = yield from _offset(known)
            if offset < file.size:
                return known, offset
    upload, offset = yield from _begin(file)
    yield Work(partial(unfinished.remember, sender, file.sha256, upload))
    return upload, offset


def _begin(file: Hashed) -> Steps[tuple[str, int]]:
    """Announce a file; returns the upload's path and how much of it is there."""
    metadata = {"filename": file.path.name, "sha256": file.sha256}
    pairs = [f"{name} {b64encode(value.encode()).decode()}" for name, value in metadata.items()]
    headers = {**TUS, "upload-length": str(file.size), "upload-metadata": ",".join(pairs)}
    answer = yield from send(Request("POST", "/v1/uploads", headers=headers))
    return header(answer, "location"), int(header(answer, "upload-offset"))


def _rest(file: Hashed, offset: int, upload: str, tell: Tell) -> Request:
    name, left = file.path.name, file.size - offset
    body = Slice(
        file.path, offset, left, lambda sent: tell(Progress("uploading", name, offset + sent, file.size))
    )
    headers = {**TUS, **CHUNK, "upload-offset": str(offset), "content-length": str(left)}
    return Request("PATCH", upload, headers=headers, body=body)


def _recover(file: Hashed, request: Request, outcome: Answer | Broken, fruitless: int) -> Steps[None]:
    """Wait before the rest is sent, if that can help."""
    if isinstance(outcome, Answer) and outcome.status == CONFLICT:
        outcome = Broken("the upload goes on at another byte")
    try:
        yield from pause_or_raise(request, outcome, fruitless, PATIENT_ATTEMPTS)
    except Refused as error:
        if error.code == "digest_mismatch":
            raise InvalidInput(_changed(file.path)) from error
        raise


def _offset(upload: str) -> Steps[int]:
    answer = yield from send(Request("HEAD", upload, headers=TUS), PATIENT_ATTEMPTS)
    return int(header(answer, "upload-offset"))


def named_files(given: list[Path]) -> dict[str, Path]:
    """A version's files by their names: those given, what lies in a folder, external data beside a model.

    Raises:
        InvalidInput: There is no such file, or two have one name.
    """
    if len(given) == 1 and given[0].is_dir():
        return _in_folder(given[0])
    missing = next((path for path in given if not path.is_file()), None)
    if missing:
        raise InvalidInput(f"There is no file {missing}. Give the path of an .onnx file, or an id: ver_…")
    paths = given + (_external(given[0]) if len(given) == 1 else [])
    named = {path.name: path for path in paths}
    if len(named) < len(paths):
        raise InvalidInput(f"Of {', '.join(map(str, paths))} two have one name; give their folder instead.")
    return named


def _in_folder(folder: Path) -> dict[str, Path]:
    """All files but hidden ones, which belong to tools and people."""
    found = {p.relative_to(folder): p for p in sorted(folder.rglob("*")) if p.is_file()}
    named = {
        name.as_posix(): path
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.parts)
    }
    models = [name for name in named if name.endswith(".onnx")]
    if not models:
        raise InvalidInput(f"The folder {folder} holds no .onnx file.")
    if len(models) > 1:
        raise InvalidInput(f"The folder {folder} holds several .onnx files ({', '.join(models)}); name one.")
    return named


def _external(model: Path) -> list[Path]:
    """External data under the names that exporters give it: model.onnx.data, model.onnx_data, model.data."""
    names = [f"{model.name}.data", f"{model.name}_data", f"{model.stem}.data"]
    return [path for path in (model.with_name(name) for name in names) if path.is_file()]
