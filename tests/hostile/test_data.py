"""Data that want to do harm are taken, inspected, and rejected for what they are (rows 8 to 12)."""

import io
import tarfile
from collections.abc import Callable
from functools import partial

import httpx
import numpy as np
import pytest

from tests.hostile import inputs
from tests.hostile.conftest import rejected
from tests.zips import zipped

pytestmark = pytest.mark.long
Make = Callable[[], bytes]


def pickled() -> bytes:
    """An array of Python objects."""
    out = io.BytesIO()
    np.savez(out, image=np.array([{"an": "object"}], dtype=object))
    return out.getvalue()


DATA: dict[str, tuple[Make, str]] = {
    "an array of objects": (pickled, "pickled_array"),
    "a header that promises 4 TiB": (inputs.boasting, "broken_array"),
    "an array packed a thousand times, beyond what one step may write": (
        partial(inputs.squeezed, 2**29),
        "archive_too_large",
    ),
    "a picture packed a thousand times": (
        lambda: zipped({"a.png": bytes(50_000_000)}),
        "archive_too_large",
    ),
    "more files than there may be": (inputs.crowded, "archive_too_large"),
    "a link in a zip": (partial(inputs.zip_link, "a.png", "/etc/passwd"), "unsafe_archive"),
    "a link in a tar": (partial(inputs.tarred, "a.png", tarfile.SYMTYPE, "/etc/passwd"), "unsafe_archive"),
    "a hard link in a tar": (
        partial(inputs.tarred, "a.png", tarfile.LNKTYPE, "/etc/passwd"),
        "unsafe_archive",
    ),
    "a device in a tar": (partial(inputs.tarred, "a.png", tarfile.BLKTYPE), "unsafe_archive"),
    "a path above a tar": (partial(inputs.tarred, "../../canary"), "unsafe_archive"),
    "an absolute path in a zip": (lambda: zipped({"/canary.png": b"x"}), "unsafe_archive"),
}


@pytest.mark.parametrize("case", DATA)
def test_hostile_data_are_rejected(http: httpx.Client, case: str) -> None:
    make, code = DATA[case]

    assert rejected(http, "/v1/datasets", "data", make())["code"] == code
