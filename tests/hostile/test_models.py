"""Models that want to do harm are taken, inspected, and rejected for what they are (rows 6 to 10 and 16)."""

import hashlib
import tarfile
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.hostile import inputs
from tests.hostile.conftest import Service, rejected
from tests.zips import zipped

pytestmark = pytest.mark.long
Make = Callable[[], bytes]
NOISE = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(200))
UNSAFE = "external_data_unsafe"

MODELS: dict[str, tuple[Make, str]] = {
    "random bytes": (lambda: NOISE, "not_onnx"),
    "half a model": (lambda: inputs.small("a")[:-20], "truncated_model"),
    "graphs nested five thousand times": (inputs.nested, "not_onnx"),
    "a function that calls itself": (inputs.recursive, "invalid_model"),
    "operators that need a library": (partial(inputs.written, inputs.FOREIGN), "unsupported_domain"),
    "weights above the folder": (partial(inputs.external, "../../canary"), UNSAFE),
    "weights in a folder and out again": (partial(inputs.external, "a/../../canary"), UNSAFE),
    "weights in a system file": (partial(inputs.external, "/etc/passwd"), UNSAFE),
    "weights in the process's memory": (partial(inputs.external, "/proc/self/mem"), UNSAFE),
    "weights by a path of Windows": (partial(inputs.external, "..\\..\\canary"), UNSAFE),
    "weights before the file's beginning": (partial(inputs.external, "m.onnx", -8), UNSAFE),
    "weights of more bytes than there are numbers": (
        partial(inputs.external, "m.onnx", 0, 10**30),
        "external_data_missing",
    ),
    "weights of a TiB": (partial(inputs.external, "m.onnx", 0, 2**40), "external_data_missing"),
}

ARCHIVES: dict[str, tuple[Make, str]] = {
    "a link in a zip": (partial(inputs.zip_link, "m.onnx", "/etc/passwd"), "unsafe_archive"),
    "a link in a tar": (partial(inputs.tarred, "m.onnx", tarfile.SYMTYPE, "/etc/passwd"), "unsafe_archive"),
    "a hard link in a tar": (
        partial(inputs.tarred, "m.onnx", tarfile.LNKTYPE, "/etc/passwd"),
        "unsafe_archive",
    ),
    "a device in a tar": (partial(inputs.tarred, "m.onnx", tarfile.CHRTYPE), "unsafe_archive"),
    "a pipe in a tar": (partial(inputs.tarred, "m.onnx", tarfile.FIFOTYPE), "unsafe_archive"),
    "a path above a tar": (partial(inputs.tarred, "../../canary"), "unsafe_archive"),
    "an absolute path in a tar": (partial(inputs.tarred, "/canary"), "unsafe_archive"),
    "a path above a zip": (lambda: zipped({"../../canary": b"x"}), "unsafe_archive"),
    "a thousand times its size": (lambda: zipped({"m.onnx": bytes(50_000_000)}), "archive_too_large"),
    "a name in a tar that is no UTF-8": (
        partial(inputs.tarred, "\udcff.onnx"),
        "unsafe_archive",
    ),
    "a zip in a zip": (lambda: zipped({"m.zip": zipped({"m.onnx": inputs.small("a")})}), "not_onnx"),
    "weights outside the archive": (
        lambda: zipped({"m.onnx": inputs.external("../canary"), "canary": bytes(16)}),
        UNSAFE,
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_hostile_model_is_rejected(service: Service, http: httpx.Client, case: str) -> None:
    make, code = MODELS[case]

    problem = rejected(http, "/v1/models", "m.onnx", make())

    assert problem["code"] == code, problem
    assert str(service.home) not in problem["detail"]


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_hostile_archive_of_a_model_is_rejected(http: httpx.Client, case: str) -> None:
    make, code = ARCHIVES[case]

    assert rejected(http, "/v1/models", "m.zip", make())["code"] == code
