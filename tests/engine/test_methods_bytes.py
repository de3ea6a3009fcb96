"""Same manifest, same bytes: in another process, whatever order it hashes in."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest

from app.domain.recipe import Correction
from tests.engine.graphs import convolution, feeds, outliers, residual
from tests.engine.quantizing import Case
from worker.engine.calibrate import save_statistics
from worker.engine.methods import METHODS

ROOT = Path(__file__).parents[2]
Fields = Mapping[str, Any]
MINMAX = {"method": "minmax"}
STATIC: Sequence[Fields] = (
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
    {"corrections": [], "ranges": MINMAX},
    {"corrections": ["bias_correction"], "ranges": MINMAX},
    {"corrections": ["weight_clipping"], "ranges": MINMAX},
    {"corrections": ["rounding"], "ranges": MINMAX},
)
IMAGES: Sequence[Fields] = [
    *({"method": "static_int8", **options} for options in STATIC),
    {
        "method": "mixed",
        "overrides": [
            {"nodes": ["branch"], "activation": "int16"},
            {"op_types": ["Add"], "activation": "int8"},
        ],
    },
    {"method": "mixed", "float": True, "overrides": [{"nodes": ["head"]}]},
    {"method": "dynamic_int8", "include": {"op_types": ["Conv"]}},
    {"method": "dynamic_int8", "include": {"op_types": ["Conv"]}, "reduce_range": True},
    {"method": "float16", "compute": "storage"},
    {"method": "float16", "compute": "full"},
    {"method": "bfloat16"},
]
PAIRS: Sequence[Fields] = [
    {"method": "static_int8", "ranges": MINMAX, "per_channel": False, "corrections": corrections}
    for corrections in ([], ["equalization"], ["equalization", "rounding", "bias_correction"], ["adaround"])
]
ROWS: Sequence[Fields] = [
    {"method": "static_int8", "corrections": ["smoothquant"], "ranges": MINMAX},
    {"method": "static_int8", "ranges": {"method": "entropy"}},
    {"method": "dynamic_int8"},
    *({"method": "weight_only", "bits": 4, "algorithm": name} for name in ("rtn", "hqq", "gptq")),
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
folder, shape, recipes = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
adapter = TypeAdapter(Annotated[Recipe, Discriminator("method")])
for isa in ("x86-avx2", "arm64"):
    for index, recipe in enumerate(recipes):
        out = folder / f"{sys.argv[4]}-{isa}-{index}.onnx"
        statistics = load_statistics(folder / "statistics")
        setting = Setting(isa=isa, statistics=statistics, samples=lambda: feeds(shape=shape))
        found = quantize(folder / "prepared.onnx", out, adapter.validate_python(recipe), setting)
        print(hashlib.sha256(out.read_bytes()).hexdigest(), *found.reasons, sep=" | ")
"""


MODELS: Mapping[str, tuple[onnx.ModelProto, Sequence[int], Sequence[Fields]]] = {
    "images": (residual(), [1, 3, 16, 16], IMAGES),
    "pairs of layers": (convolution(), [1, 3, 16, 16], PAIRS),
    "rows": (outliers(), [1, 12, 64], ROWS),
}


def made(folder: Path, kind: str, seed: str) -> list[str]:
    """What a process of its own makes: for each target and recipe the hash and the reasons."""
    _, shape, recipes = MODELS[kind]
    command = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(shape), json.dumps(recipes), seed]
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", MODELS)
def test_two_processes_give_the_same_bytes_and_reasons(tmp_path: Path, kind: str) -> None:
    model, shape, recipes = MODELS[kind]
    case = Case(tmp_path, model, feeds(shape=shape))
    save_statistics(case.statistics, tmp_path / "statistics")

    first, second = made(tmp_path, kind, "1"), made(tmp_path, kind, "2")

    assert len(first) == 2 * len(recipes)
    assert first == second
    digests = {line.split(" | ")[0] for line in first[: len(recipes)]}
    assert len(digests) == len(recipes), "different recipes give different bytes"


def test_every_recipe_and_every_correction_is_among_them() -> None:
    recipes = [*IMAGES, *PAIRS, *ROWS]
    corrections = {name for recipe in recipes for name in recipe.get("corrections", ())}

    assert {recipe["method"] for recipe in recipes} == {kind().method for kind in METHODS}
    assert corrections == set(get_args(Correction))


def test_one_thread_adds_up_whatever_the_host_has() -> None:
    """With two, the inverse of a matrix has other last bits than with one."""
    program = (
        "from threadpoolctl import threadpool_info; import worker.engine.calls, numpy; "
        "print(*(pool['num_threads'] for pool in threadpool_info()))"
    )
    command, environment = [sys.executable, "-c", program], os.environ | {"OPENBLAS_NUM_THREADS": "2"}

    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)

    assert said.stdout.strip() == "1"
