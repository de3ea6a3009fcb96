"""Take a model out of an archive, its external data and the ONNX test data beside it, and nothing else."""

import shutil
from pathlib import Path, PurePosixPath

import onnx

from app.domain.errors import Refused
from app.domain.file_path import is_plain
from worker.engine.data.archive import BROKEN, Entry, broken, open_tar, open_zip
from worker.engine.data.pb import is_test_data
from worker.engine.load import check_external_data, external_tensors, parse
from worker.engine.packed import is_zip

CLUTTER = ("__MACOSX", ".")
USUAL = "model.onnx"
SHOWN = 5
MOST_TEST_FILES = 200
MOST_TEST_BYTES = 256 * 2**20


def unpack(archive: Path, out: Path, limit: int) -> tuple[str, ...]:
    """Write the archive's model, its external data and its test data below `out`.

    Of `test_data_set_*/input_*.pb` and `output_*.pb` beside the model whole sets are taken, from the first
    on, as far as 200 files, 256 MiB and `limit` go; they are copied and not looked at.

    Args:
        archive: a zip or a tar, also compressed, with one `.onnx` file or one `model.onnx` in any folder.
        out: an empty folder.
        limit: bytes that all written files may have together.

    Returns:
        Paths below `out`, the model's first, as the model names its external data.

    Raises:
        Refused: `not_onnx` or `several_models` when no file or too many could be the model,
            `model_too_large`, `broken_archive`, `archive_too_large`, `unsafe_archive`, or what
            `check_external_data` refuses.
    """
    entries = {entry.name: entry for entry in _entries(archive, limit)}
    model = _model(entries)
    name = PurePosixPath(model.name).name
    proto = parse(_write(model, out, name, limit))
    written = {name: model}
    for location in _locations(proto):
        entry = entries.get(str(PurePosixPath(model.name).parent / location))
        path = str(PurePosixPath(location))
        if entry and path not in written:
            _write(entry, out, path, limit - sum(e.size for e in written.values()))
            written[path] = entry
    check_external_data(proto, out)
    room = min(MOST_TEST_BYTES, limit - sum(entry.size for entry in written.values()))
    for path, entry in _test_data(model, entries, room).items():
        if path not in written:
            _write(entry, out, path, room)
            written[path] = entry
    return tuple(written)


def _entries(archive: Path, limit: int) -> list[Entry]:
    return open_zip(archive, limit) if is_zip(archive) else open_tar(archive, limit)


def _model(entries: dict[str, Entry]) -> Entry:
    """The only `.onnx` file, or the only `model.onnx`."""
    found = [e for e in entries.values() if e.name.lower().endswith(".onnx") and not _is_clutter(e.name)]
    usual = [e for e in found if PurePosixPath(e.name).name == USUAL]
    if len(found) == 1 or len(usual) == 1:
        return (usual or found)[0]
    if not found:
        detail = (
            "The archive holds no .onnx file; export the model to ONNX and pack it with its external data."
        )
        raise Refused("not_onnx", detail)
    names = ", ".join(repr(entry.name) for entry in found[:SHOWN])
    detail = f"The archive holds {len(found)} models: {names}. Send one, or call the one you mean {USUAL}."
    raise Refused("several_models", detail)


def _is_clutter(name: str) -> bool:
    return any(part.startswith(CLUTTER) for part in name.split("/"))


def _locations(proto: onnx.ModelProto) -> list[str]:
    named = (e.value for t in external_tensors(proto) for e in t.external_data if e.key == "location")
    return list(dict.fromkeys(named))


def _test_data(model: Entry, entries: dict[str, Entry], room: int) -> dict[str, Entry]:
    """The files of the first test data sets beside the model that find room, by their path below `out`."""
    folder = PurePosixPath(model.name).parent
    sets: dict[str, dict[str, Entry]] = {}
    for entry in entries.values():
        path = PurePosixPath(entry.name)
        if is_test_data(entry.name) and path.parent.parent == folder:
            sets.setdefault(path.parent.name, {})[f"{path.parent.name}/{path.name}"] = entry
    taken: dict[str, Entry] = {}
    for name in sorted(sets, key=lambda name: int(name.rpartition("_")[2])):
        more = taken | dict(sorted(sets[name].items()))
        if len(more) > MOST_TEST_FILES or sum(entry.size for entry in more.values()) > room:
            break
        taken = more
    return taken


def _write(entry: Entry, out: Path, path: str, room: int) -> Path:
    if entry.size > room:
        detail = f"{entry.name!r} unpacks to {entry.size} bytes; {room} are left of the limit for models."
        raise Refused("model_too_large", detail)
    if not is_plain(path):
        detail = f"{entry.name!r} would unpack to {path[:200]!r}, which is no plain path beside the model."
        raise Refused("unsafe_archive", detail)
    target = out / path
    try:
        path.encode()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as copy, entry.open() as source:
            shutil.copyfileobj(source, copy, 2**20)
    except (FileExistsError, NotADirectoryError, UnicodeError, ValueError) as error:
        raise Refused("unsafe_archive", f"{entry.name!r} cannot be unpacked: {error}.") from error
    except BROKEN as error:
        raise broken(error, f"{entry.name!r} cannot be unpacked: {error}.") from error
    return target
