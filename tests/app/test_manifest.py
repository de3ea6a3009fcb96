"""What results depend on: the engine's libraries, its source, and the vocabulary's."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from app.services import manifest

BY_MODULE = packages_distributions()
LOADED_BY_OTHERS = {"sympy"}  # by ONNX Runtime's shape inference
SHARE_A_NAMESPACE = {"googleapis-common-protos"}  # `google`, with protobuf


def tree(folder: Path, rules: str) -> Path:
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "rules.py").write_text(rules)
    return folder


def imported_from(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def test_the_libraries_are_those_that_the_engine_and_the_vocabulary_import() -> None:
    files = [file for source in manifest.SOURCES for file in source.rglob("*.py")]
    modules = set().union(*(imported_from(file) for file in files)) - sys.stdlib_module_names
    ours = {"app", "worker"}
    used = {name.lower() for module in modules - ours for name in BY_MODULE[module]}

    assert (used - SHARE_A_NAMESPACE) | LOADED_BY_OTHERS == set(manifest.LIBRARIES)


@pytest.mark.parametrize("changed", [0, 1], ids=["the first tree", "the second tree"])
def test_another_source_is_another_release(tmp_path: Path, changed: int) -> None:
    trees = [tree(tmp_path / name, "reduced = True") for name in ("a", "b")]
    before = manifest.digest(trees)

    (trees[changed] / "inside" / "rules.py").write_text("reduced = False")

    assert manifest.digest(trees) != before


def test_a_tree_without_source_is_an_error_and_not_a_release(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no source"):
        manifest.digest([tmp_path])


def test_the_vocabulary_is_part_of_the_release() -> None:
    folders = [source.relative_to(manifest.HOUSE).as_posix() for source in manifest.SOURCES]

    assert folders == ["app/domain", "worker/engine"]
