"""Same manifest, same bytes: in another process, whatever order it hashes in."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.engine.graphs import feeds, residual
from tests.engine.quantizing import Case
from worker.engine.calibrate import save_statistics

ROOT = Path(__file__).parents[2]
RECIPES = [
    {"method": "static_int8", **options}
    for options in (
        {},
        {"format": "qoperator", "quantize_io": True},
        {"activation": "uint16", "qdq_domain": "onnx"},
        {"weight": "int4", "symmetric": {"activation": True}},
        {"activation": "int8", "per_channel": False, "reduce_range": True},
        {"weight": "uint8", "qdq_domain": "com.microsoft"},
        {
            "overrides": [
                {"nodes": ["*"], "weight": "int8", "activation": "int8"},
                {"tensors": ["r", "s", "t"], "range": [0, 4]},
                {"nodes": ["head"], "float": True},
            ],
            "exclude": {"nodes": ["add"]},
        },
    )
] + [
    {"method": "dynamic_int8", "include": {"op_types": ["Conv"]}},
    {"method": "dynamic_int8", "include": {"op_types": ["Conv"]}, "reduce_range": True},
    {"method": "static_int8", "corrections": ["equalization", "rounding", "bias_correction"]},
    {"method": "float16", "compute": "storage"},
    {"method": "float16", "compute": "full"},
    {"method": "bfloat16"},
]
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from typing import Annotated
from pydantic import Discriminator, TypeAdapter
from app.domain.recipe import Recipe
from tests.engine.graphs import feeds
from worker.engine.calibrate import load_statistics
from worker.engine.methods import Setting, quantize
folder, recipes = Path(sys.argv[1]), json.loads(sys.argv[2])
adapter = TypeAdapter(Annotated[Recipe, Discriminator("method")])
for isa in ("x86-vnni", "x86-avx2", "arm64"):
    for index, recipe in enumerate(recipes):
        out = folder / f"{sys.argv[3]}-{isa}-{index}.onnx"
        statistics = load_statistics(folder / "statistics")
        samples = feeds if "corrections" in recipe else None
        setting = Setting(isa=isa, statistics=statistics, samples=samples)
        found = quantize(folder / "prepared.onnx", out, adapter.validate_python(recipe), setting)
        print(hashlib.sha256(out.read_bytes()).hexdigest(), *found.reasons, sep=" | ")
"""


def made(folder: Path, seed: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(RECIPES), seed]
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_two_processes_give_the_same_bytes_and_reasons(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    save_statistics(case.statistics, tmp_path / "statistics")

    first, second = made(tmp_path, "1"), made(tmp_path, "2")

    assert len(first) == 3 * len(RECIPES)
    assert first == second


def test_different_recipes_give_different_bytes(tmp_path: Path) -> None:
    case = Case(tmp_path, residual(), feeds())
    save_statistics(case.statistics, tmp_path / "statistics")

    digests = {line.split(" | ")[0] for line in made(tmp_path, "0")[: len(RECIPES)]}

    assert len(digests) == len(RECIPES)
