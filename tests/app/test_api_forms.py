"""Forms over HTTP: broken, incomplete or wrong in a field, they are refused and leave nothing."""

import httpx
import pytest

from tests.app.conftest import MIB, Service
from tests.app.problems import pointers, problem
from tests.app.uploading import FILE, Files, content, form, post_form


def test_a_form_that_ends_too_early_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()
    whole = form(FILE, ('name="name"', b"m"))

    for cut in (len(whole) - 6, len(whole) // 2, 40, 3, 0):
        problem(post_form(http, whole[:cut]), 422, "invalid_multipart")

    assert service.objects() == before
    assert post_form(http, whole).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": f"multipart/form-data; boundary={'B' * 500}"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ],
)
def test_a_body_that_is_no_form_is_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    problem(http.post("/v1/models", content=form(FILE), headers=headers), 422, "invalid_multipart")


def test_garbage_under_a_forms_name_is_refused(http: httpx.Client) -> None:
    problem(post_form(http, content()), 422, "invalid_multipart")


def test_a_part_of_an_unknown_name_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()

    answer = post_form(http, form(FILE, ('name="fiel"', b"x")))

    assert pointers(answer) == ["/fiel"]
    assert "file" in answer.json()["errors"][0]["detail"]
    assert service.objects() == before


def test_a_field_that_is_sent_twice_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client
) -> None:
    before = service.objects()

    answer = post_form(http, form(FILE, ('name="labels"', b"{}"), ('name="labels"', b"{}")))

    assert pointers(answer) == ["/labels"]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("path", "part"), [("/v1/models", "/file"), ("/v1/datasets", "/file"), ("/v1/quantize", "/model")]
)
def test_a_form_without_its_file_says_which_part_is_missing(http: httpx.Client, path: str, part: str) -> None:
    assert pointers(post_form(http, form(('name="name"', b"m")), path)) == [part]


def test_too_many_parts_are_refused_and_leave_nothing(service: Service, http: httpx.Client) -> None:
    before = service.objects()

    problem(post_form(http, form(*[FILE] * 101)), 422, "invalid_multipart")

    assert service.objects() == before


def test_a_field_that_is_too_long_is_refused(http: httpx.Client) -> None:
    assert pointers(post_form(http, form(FILE, ('name="name"', b"x" * (MIB + 1))))) == ["/name"]


@pytest.mark.parametrize("path", ["/v1/datasets", "/v1/quantize"])
def test_a_second_file_where_one_belongs_is_refused_and_leaves_nothing(
    service: Service, http: httpx.Client, path: str
) -> None:
    part = "data" if path == "/v1/quantize" else "file"
    files: Files = [(part, ("a.npz", content())), (part, ("b.npz", content()))]
    model: Files = [("model", ("m.onnx", content()))] if path == "/v1/quantize" else []
    before = service.objects()

    assert pointers(http.post(path, files=model + files)) == [f"/{part}"]
    assert service.objects() == before


@pytest.mark.parametrize("names", [("m.onnx", "m.onnx"), ("a/m.onnx", "b/m.onnx")])
def test_two_files_of_one_name_are_refused_and_leave_nothing(
    service: Service, http: httpx.Client, names: tuple[str, str]
) -> None:
    before = service.objects()
    files: Files = [("file", (name, content())) for name in names]

    assert pointers(http.post("/v1/models", files=files)) == ["/file"]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("filename", "path"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:/models/m.onnx", "m.onnx"),
        ("", "model.onnx"),
        ("päth with spaces.onnx", "päth with spaces.onnx"),
    ],
)
def test_a_filename_is_only_a_name(http: httpx.Client, filename: str, path: str) -> None:
    body = form((f'name="file"; filename="{filename}"', b"bytes"))

    assert post_form(http, body).json()["files"][0]["path"] == path


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"labels": "{"}, "/labels"),
        ({"labels": "[]"}, "/labels"),
        ({"labels": '{"a": 1}'}, "/labels/a"),
        ({"labels": '{"a": "' + "x" * 201 + '"}'}, "/labels/a"),
    ],
)
def test_labels_that_are_no_object_of_strings_are_refused(
    service: Service, http: httpx.Client, fields: dict[str, str], pointer: str
) -> None:
    before = service.objects()

    answer = http.post("/v1/models", files={"file": ("m.onnx", content())}, data=fields)

    assert pointers(answer) == [pointer]
    assert service.objects() == before


@pytest.mark.parametrize(
    ("preprocess", "pointer"),
    [
        ("imagenette", "/preprocess"),
        ("{", "/preprocess"),
        ('{"resize": "big"}', "/preprocess/resize"),
        ('{"rezize": 2}', "/preprocess/rezize"),
        ('{"mean": [1, "a"]}', "/preprocess/mean/1"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused_where_it_is_wrong(
    service: Service, http: httpx.Client, preprocess: str, pointer: str
) -> None:
    before = service.objects()

    answer = http.post("/v1/datasets", files={"file": ("d.npz", content())}, data={"preprocess": preprocess})

    assert pointers(answer) == [pointer]
    assert service.objects() == before
