"""Archives of models through the whole service: unpacked in the sandbox, kept file by file."""

import httpx
import pytest

from tests.zips import zipped

WAIT = {"Prefer": "wait=600"}


def post(http: httpx.Client, content: bytes) -> httpx.Response:
    return http.post("/v1/models", files={"file": ("digits.zip", content)}, headers=WAIT)


def test_a_model_in_an_archive_is_ready_like_any_other(http: httpx.Client, digits_model: bytes) -> None:
    sent = zipped({"digits/digits.onnx": digits_model, "digits/README": b"read me"})

    first, again = post(http, sent).json(), post(http, sent).json()

    for version in (first, again):
        assert (version["state"], version["name"]) == ("ready", "digits")
        assert [file["path"] for file in version["files"]] == ["digits.onnx"]
        assert http.get(version["links"]["content"]).content == digits_model
    assert first["examination"]["op_types"]["Conv"] >= 1


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"weights.pt": b"no model"}, "not_onnx"),
        ({"../m.onnx": b"outside"}, "unsafe_archive"),
        ({"m.onnx": bytes(50_000_000)}, "archive_too_large"),
        ({"a.onnx": b"one", "b.onnx": b"two"}, "several_models"),
    ],
)
def test_an_archive_without_a_usable_model_is_rejected(
    http: httpx.Client, files: dict[str, bytes], code: str
) -> None:
    answer = post(http, zipped(files))

    assert (answer.status_code, answer.json()["code"]) == (422, code)
