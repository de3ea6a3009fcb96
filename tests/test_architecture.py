"""Arrows run one way: import-linter for what the source says, sys.modules for what really happens."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOMAIN = sorted(f"app.domain.{path.stem}" for path in (ROOT / "app" / "domain").glob("[!_]*.py"))
HEAVY = {"onnx", "onnxruntime", "numpy"}
SHOW = """
import sys
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(module: str) -> set[str]:
    """The modules that importing this one loads, in a fresh interpreter."""
    command = [sys.executable, "-c", SHOW.format(module=module)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_web_process_loads_nothing_that_opens_models() -> None:
    loaded = loaded_by("app.main")

    assert packages(loaded) & {*HEAVY, "worker"} == set()
    assert "app.api.routes.quantize" in loaded


@pytest.mark.parametrize("module", DOMAIN)
def test_the_domain_stands_on_the_standard_library_alone(module: str) -> None:
    loaded = loaded_by(module)

    assert packages(loaded) - set(sys.stdlib_module_names) == {"app"}
    assert all(
        name in {"app", "app.domain"} or name.startswith("app.domain.") for name in loaded & _ours(loaded)
    )


def _ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == "app"}


def test_a_worker_process_loads_nothing_that_opens_models() -> None:
    loaded = loaded_by("worker.tasks")

    assert packages(loaded) & {"onnx", "onnxruntime"} == set()
    assert not {module for module in loaded if module.startswith("app.api")}


def test_the_engine_knows_no_database_no_http_and_no_queue() -> None:
    loaded = loaded_by("worker.engine.calls")

    assert packages(loaded) & {"sqlalchemy", "fastapi", "starlette", "celery", "kombu", "redis"} == set()
    assert all(name == "app" or name.startswith("app.domain") for name in _ours(loaded))


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    ours = [path for top in ("app", "worker", "tests") for path in (ROOT / top).rglob("*")]

    assert [path for path in ours if path.stem in drawers] == []
