"""Datasets of images: zip and tar, labels, and what is refused."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.domain.dataset import Preprocess
from app.domain.errors import Refused
from worker.engine.data import archive, open_dataset
from worker.engine.data.dataset import Dataset, summarize
from worker.engine.requests import Data


def picture(shade: int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(buffer, kind)
    return buffer.getvalue()


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def tarred(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def opened(path: Path, preprocess: Preprocess | None = None) -> Dataset:
    return open_dataset(Data(path=path, preprocess=preprocess or Preprocess()))


def refusal(path: Path) -> str:
    with pytest.raises(Refused) as refused:
        summarize(opened(path))
    return refused.value.code


FOLDERS = {"val/dog/1.png": picture(1), "val/cat/2.png": picture(2), "val/dog/3.png": picture(3)}


def test_a_folder_for_each_class_is_numbered_in_sorted_order(tmp_path: Path) -> None:
    dataset = opened(zipped(tmp_path / "a", FOLDERS))

    assert dataset.classes == ("cat", "dog")
    assert dataset.labels == (0, 1, 1)
    assert [dataset.sample(i)["image"][0, 0, 0] for i in range(3)] == [2, 1, 3]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_gives_what_a_zip_gives(tmp_path: Path, mode: str) -> None:
    packed, plain = opened(tarred(tmp_path / "t", FOLDERS, mode)), opened(zipped(tmp_path / "z", FOLDERS))

    assert packed.labels == plain.labels
    assert [packed.content_hash(i) for i in range(3)] == [plain.content_hash(i) for i in range(3)]
    assert all(np.array_equal(packed.sample(i)["image"], plain.sample(i)["image"]) for i in range(3))


@pytest.mark.parametrize("header", ["", "file,label\n", "\ufefffile,label\r\n"])
def test_labels_csv_may_have_a_header(tmp_path: Path, header: str) -> None:
    sheet = header + "b.png,7\na.png,3\n"

    dataset = opened(
        zipped(tmp_path / "a", {"a.png": picture(1), "b.png": picture(2), "labels.csv": sheet.encode()})
    )

    assert dataset.labels == (3, 7)


def test_labels_csv_names_files_relative_to_its_own_folder(tmp_path: Path) -> None:
    files = {"set/a.png": picture(1), "set/labels.csv": b"a.png,5\n"}

    assert opened(zipped(tmp_path / "a", files)).labels == (5,)


def test_images_without_a_row_stay_unlabelled_and_are_counted(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "labels.csv": b"a.png,1\n"}

    summary = summarize(opened(zipped(tmp_path / "a", files)))

    assert summary.labels == 1
    assert "1 images have no row" in summary.warnings[0]


def test_labels_csv_of_numbers_that_are_not_whole_holds_targets(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "labels.csv": b"a.png,104.5\nb.png,9\n"}

    dataset = opened(zipped(tmp_path / "a", files))

    assert (dataset.labels, dataset.classes) == (None, ())
    assert dataset.targets is not None
    assert [dataset.targets[0], dataset.targets[1]] == [104.5, 9.0]


def test_labels_csv_of_whole_numbers_holds_classes_however_they_are_written(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "labels.csv": b"a.png,10.0\nb.png,9\n"}

    dataset = opened(zipped(tmp_path / "a", files))

    assert (dataset.labels, dataset.classes) == ((10, 9), ("9", "10"))


@pytest.mark.parametrize("row", [b"", b"b.png,\n", b"b.png,nan\n"])
def test_an_image_without_a_number_among_numbers_is_refused(tmp_path: Path, row: bytes) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "labels.csv": b"a.png,0.5\n" + row}

    assert refusal(zipped(tmp_path / "a", files)) == "labels_not_finite"


def test_a_flat_archive_has_no_labels(tmp_path: Path) -> None:
    assert opened(zipped(tmp_path / "a", {"a.png": picture(1), "b.png": picture(2)})).labels is None


def test_a_row_for_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "labels.csv": b"a.png,1\nghost.png,2\n"}

    assert refusal(zipped(tmp_path / "a", files)) == "labels_mismatch"


def test_a_sheet_of_other_columns_is_refused(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "labels.csv": b"a.png,1,2\n"}

    assert refusal(zipped(tmp_path / "a", files)) == "broken_labels"


@pytest.mark.parametrize("second", [b"a.png", b"./a.png"])
def test_two_rows_for_one_image_are_refused(tmp_path: Path, second: bytes) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "labels.csv": b"a.png,1\nb.png,1\n" + second + b",2\n"}

    with pytest.raises(Refused, match=r"labels.csv has 2 rows for 'a.png'; give each image one") as refused:
        opened(zipped(tmp_path / "a", files))
    assert refused.value.code == "broken_labels"


def test_images_are_known_by_content_and_not_by_name(tmp_path: Path) -> None:
    files = {"a": picture(1), "b.bin": picture(2, kind="JPEG"), "notes.txt": b"hello"}

    summary = summarize(opened(zipped(tmp_path / "a.npz", files)))

    assert summary.samples == 2
    assert "notes.txt" in summary.warnings[-1]


def test_what_operating_systems_leave_behind_is_ignored(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "__MACOSX/._a.png": b"x", ".DS_Store": b"y", "c/Thumbs.db": b"z"}

    assert len(opened(zipped(tmp_path / "a", files))) == 1


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "C:/a.png", "..\\a.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    assert refusal(zipped(tmp_path / "z", {name: picture(1)})) == "unsafe_archive"
    assert refusal(tarred(tmp_path / "t", {name: picture(1)})) == "unsafe_archive"


@pytest.mark.parametrize("size", [2**62, 2**70])
def test_a_tar_that_claims_more_than_there_can_be_is_refused(tmp_path: Path, size: int) -> None:
    member = tarfile.TarInfo("a.png")
    member.size = size
    with tarfile.open(tmp_path / "t", "w") as made:
        made.addfile(member)

    assert refusal(tmp_path / "t") == "broken_archive"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("a.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "t", "w") as made:
        made.addfile(member)

    assert refusal(tmp_path / "t") == "unsafe_archive"


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z", "w") as made:
        made.writestr(link, "/etc/passwd")

    assert refusal(tmp_path / "z") == "unsafe_archive"


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", picture(1) + bytes(50_000_000))
    with tarfile.open(tmp_path / "t", "w:gz") as packed:
        member = tarfile.TarInfo("a.png")
        member.size = 50_000_000
        packed.addfile(member, io.BytesIO(bytes(50_000_000)))

    assert refusal(tmp_path / "z") == "archive_too_large"
    assert refusal(tmp_path / "t") == "archive_too_large"


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2)
    files = {f"{i}.png": picture(i) for i in range(4)}

    assert refusal(zipped(tmp_path / "z", files)) == "archive_too_large"
    assert refusal(tarred(tmp_path / "t", files)) == "archive_too_large"


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w") as made:
        made.writestr("a.png", picture(1))
        made.writestr("./a.png", picture(2))

    assert refusal(tmp_path / "z") == "unsafe_archive"


@pytest.mark.parametrize("content", [b"", b"no image", picture(1)[:45], picture(1, kind="JPEG")[:200]])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = zipped(tmp_path / "z", {"good.png": picture(2), "folder/bad.png": content})

    with pytest.raises(Refused, match=r"'folder/bad\.png'") as refused:
        summarize(opened(path))

    assert refused.value.code == "broken_image"


def test_a_flipped_bit_in_a_zip_names_the_image(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z", {"a.png": picture(1)})
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)

    assert refusal(path) == "broken_image"


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert refusal(zipped(tmp_path / "z", {"a.png": picture(1, (11, 10))})) == "image_too_large"


def test_sixteen_bit_images_are_refused_instead_of_clipped(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(buffer, "PNG")

    assert refusal(zipped(tmp_path / "z", {"a.png": buffer.getvalue()})) == "unsupported_image"


def test_shapes_that_differ_are_shown_as_null(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z", {"a.png": picture(1, (6, 4)), "b.png": picture(2, (8, 4))})

    assert summarize(opened(path)).arrays[0].shape == (3, 4, None)


def test_an_archive_without_images_says_what_it_holds(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z", {"model.txt": b"text"})

    with pytest.raises(Refused, match=r"model\.txt") as refused:
        opened(path)

    assert refused.value.code == "unknown_data_format"
