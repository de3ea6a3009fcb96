"""Data that want to do harm are taken, inspected, and rejected for what they are (rows 8 to 12)."""

import io
import tarfile
from functools import partial

import httpx
import numpy as np
import pytest

from tests.hostile import inputs
from tests.hostile.conftest import Service, problem, taken
from tests.hostile.lies import BOMBS, LIES, Cases
from tests.zips import zipped

pytestmark = pytest.mark.long


def pickled() -> bytes:
    """An array of Python objects."""
    out = io.BytesIO()
    np.savez(out, image=np.array([{"an": "object"}], dtype=object))
    return out.getvalue()


ARCHIVES: Cases = {
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
    "a name in a zip that is no UTF-8": (inputs.misnamed, "not_unicode"),
    "a name in a zip that is there twice": (inputs.twice, "unsafe_archive"),
    "a file in a tar that is larger than any can be": (partial(inputs.claiming, 2**70), "broken_archive"),
    "a sparse file in a tar": (
        partial(inputs.tarred, "a.png", tarfile.GNUTYPE_SPARSE),
        "unsafe_archive",
    ),
    "a zip in a zip": (lambda: zipped({"a.zip": zipped({"a.png": b"x"})}), "unknown_data_format"),
    "a text of 50 MB": (partial(inputs.long_line, 50_000_000), "text_too_long"),
    "half a character as a text": (inputs.half_a_character, "broken_text"),
    "an absolute path in a zip": (lambda: zipped({"/canary.png": b"x"}), "unsafe_archive"),
}
CASES: dict[str, Cases] = {"archives": ARCHIVES, "bombs": BOMBS, **LIES}


@pytest.mark.parametrize("kind", CASES)
def test_hostile_data_are_rejected(service: Service, http: httpx.Client, kind: str) -> None:
    sent = {name: make() for name, (make, _) in CASES[kind].items()}
    where = {name: taken(http, "/v1/datasets", "data", content) for name, content in sent.items()}

    found = {name: problem(http, here, sent[name]) for name, here in where.items()}

    assert {name: error["code"] for name, error in found.items()} == {
        name: code for name, (_, code) in CASES[kind].items()
    }
    assert not [name for name, error in found.items() if str(service.home) in error["detail"]]


def test_names_that_nothing_can_encode_harm_nobody(http: httpx.Client) -> None:
    sent = {"file": ("data", inputs.in_folders("\udcff", "b\r\nSet-Cookie: x=y"))}

    made = http.post("/v1/datasets", files=sent, headers={"Prefer": "wait=600"})

    assert made.json()["state"] == "ready", made.text
    assert "set-cookie" not in http.get(made.headers["location"]).headers
