"""What the processor is, and how much of it a quota leaves."""

from pathlib import Path

import pytest

from app.domain import processor
from app.embedded import lineup
from worker import host


@pytest.fixture
def one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("0::/a\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(processor, "CGROUPS", tmp_path)
    monkeypatch.setattr(processor, "OWN", tmp_path / "own")


@pytest.mark.usefixtures("one_core")
def test_a_quota_bounds_the_cores_that_a_host_tells_and_the_engine_calls_at_once(tmp_path: Path) -> None:
    assert host.describe()["cores"] == "1"
    assert "--concurrency 1" in " ".join(lineup.engine(tmp_path).command)


@pytest.mark.parametrize(
    ("own", "limit"), [("0::/a\n", "a/memory.max"), ("5:memory:/b\n", "memory/b/memory.limit_in_bytes")]
)
def test_a_cgroup_bounds_the_memory_that_a_step_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, limit: str
) -> None:
    monkeypatch.setattr(processor, "CGROUPS", tmp_path)
    monkeypatch.setattr(processor, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text(own)
    (tmp_path / limit).parent.mkdir(parents=True)

    (tmp_path / limit).write_text("max\n")
    physical = processor.allowed_memory()
    (tmp_path / limit).write_text("104857600\n")

    assert (processor.allowed_memory(), physical > 104_857_600) == (104_857_600, True)


def test_the_first_processor_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: avx2 avx512_vnni\n\nmodel name\t: another\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")

    assert processor.cpu_info("model name") == "A CPU: fast"
    assert processor.cpu_info("no such field") == ""
