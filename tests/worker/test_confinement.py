"""The layers around a sandboxed child: each way out is tried, with the layer and without it."""

import sys
from pathlib import Path

import pytest

from tests.worker import misbehaving
from tests.worker.test_sandbox import misbehave
from worker import probe
from worker.confine import LAYERS

ON_LINUX = sys.platform == "linux"
FILES = [name for name in misbehaving.ESCAPES if name.split()[0] in {"read", "list", "write", "make", "move"}]
CALLS = [name for name in misbehaving.ESCAPES if name not in FILES]


def needs(layer: str) -> None:
    if layer not in probe.layers():
        pytest.skip(f"this host has no {layer}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A step's folder, with a neighbour's beside it."""
    for name in ("mine", "neighbour"):
        (tmp_path / name).mkdir()
    (tmp_path / "neighbour" / "upload").write_text("not yours")
    (tmp_path / "mine" / "own").write_text("mine")
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "neighbour" / "upload")
    return tmp_path / "mine"


def got_out(folder: Path, ways: list[str], refusals: set[str]) -> dict[str, str]:
    """The ways that were not refused like this."""
    answers = misbehave("escape", folder, mark="\n".join(ways))
    return {way: answer for way, answer in answers.items() if answer not in refusals}


def test_files_outside_the_folder_are_closed(folder: Path) -> None:
    needs("landlock")

    assert got_out(folder, FILES, {"EACCES", "EXDEV"}) == {}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mine", "neighbour"]


def test_a_child_has_no_network_no_programs_and_no_other_processes(folder: Path) -> None:
    needs("seccomp")

    assert got_out(folder, CALLS, {"EPERM", "EACCES"}) == {}


def test_what_an_engine_call_needs_is_left(folder: Path) -> None:
    assert misbehave("work", folder) == {"size": "1", "threads": "3"}


def test_the_child_is_the_first_to_go_when_memory_is_short(folder: Path) -> None:
    needs("oom_score_adj")

    assert int(misbehave("standing", folder)["oom_score_adj"]) > 0


@pytest.mark.parametrize(
    ("layer", "way"), [("landlock", "read a system file"), ("seccomp", "open a unix socket")]
)
def test_each_layer_holds_alone_what_is_its_own(
    folder: Path, layer: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(layer)
    others = tuple(name for name in probe.layers() if name != layer)
    monkeypatch.setattr(probe, "layers", lambda: others)

    assert misbehave("escape", folder, mark=way) == {way: ""}


@pytest.mark.skipif(not ON_LINUX, reason="these layers are Linux's")
def test_a_current_linux_has_every_layer() -> None:
    assert {"rlimits", "oom_score_adj", "no_new_privs", "seccomp"} <= set(probe.layers()) <= set(LAYERS)


def test_a_layer_that_does_not_hold_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "LAYERS", ("rlimits", "landlock"))
    monkeypatch.setattr(probe, "confine", lambda *_: None)
    printed: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", printed.append)

    probe.main()

    assert printed == ["[]"]
