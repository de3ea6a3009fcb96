"""Transitions, targets, recipes, presets, errors: what the rest is built on."""

import itertools
import math
from dataclasses import FrozenInstanceError, asdict

import pytest
from pydantic import TypeAdapter, ValidationError

from app.domain.dataset import PRESETS, Preprocess
from app.domain.errors import DomainError, FieldError, InvalidInput, NotFound, Problem, Refused, pointer
from app.domain.job import (
    CANDIDATE_ENDED,
    JOB_ENDED,
    TRANSITIONS,
    IllegalTransition,
    JobSpec,
    check_transition,
)
from app.domain.recipe import DynamicInt8, Recipe, StaticInt8, needs_calibration, title
from app.domain.target import RULES, detect

LEGAL = {
    ("version", "inspecting", "ready"),
    ("version", "inspecting", "rejected"),
    ("dataset", "inspecting", "ready"),
    ("dataset", "inspecting", "rejected"),
    ("job", "queued", "running"),
    ("job", "queued", "failed"),
    ("job", "queued", "canceled"),
    ("job", "queued", "expired"),
    ("job", "running", "succeeded"),
    ("job", "running", "failed"),
    ("job", "running", "canceled"),
    ("job", "running", "expired"),
    ("candidate", "planned", "building"),
    ("candidate", "planned", "failed"),
    ("candidate", "planned", "pruned"),
    ("candidate", "planned", "canceled"),
    ("candidate", "building", "built"),
    ("candidate", "building", "failed"),
    ("candidate", "building", "pruned"),
    ("candidate", "building", "canceled"),
    ("candidate", "built", "measured"),
    ("candidate", "built", "failed"),
    ("candidate", "built", "pruned"),
    ("candidate", "built", "canceled"),
}
STATES = sorted({state for _, *states in LEGAL for state in states})


@pytest.mark.parametrize("noun", ["version", "dataset", "job", "candidate"])
def test_a_transition_is_legal_or_raises(noun: str) -> None:
    for before, after in itertools.product(STATES, STATES):
        if (noun, before, after) in LEGAL:
            check_transition(noun, before, after)
        else:
            with pytest.raises(IllegalTransition, match=f"A {noun} that is {before} cannot become {after}"):
                check_transition(noun, before, after)


@pytest.mark.parametrize(("noun", "ended"), [("job", JOB_ENDED), ("candidate", CANDIDATE_ENDED)])
def test_what_has_ended_stays_as_it_is(noun: str, ended: frozenset[str]) -> None:
    assert not ended & TRANSITIONS[noun].keys()


@pytest.mark.parametrize(
    ("machine", "flags", "isa"),
    [
        ("x86_64", "fpu avx2 avx512f avx512_vnni", "x86-vnni"),
        ("AMD64", "avx2 avx_vnni", "x86-vnni"),
        ("x86_64", "fpu sse4_2 avx2", "x86-avx2"),
        ("x86_64", "fpu sse4_2 avx", "generic"),
        ("x86_64", "", "generic"),
        ("arm64", "", "arm64"),
        ("aarch64", "asimd asimddp", "arm64"),
        ("riscv64", "", "generic"),
    ],
)
def test_the_instruction_set_is_read_from_the_host(machine: str, flags: str, isa: str) -> None:
    assert detect(machine, flags.split()) == isa
    assert isa in RULES


def test_weights_keep_to_7_bits_where_sums_saturate() -> None:
    assert {isa for isa, rules in RULES.items() if rules.reduce_range} == {"x86-avx2", "generic"}
    assert (RULES["arm64"].activation, RULES["arm64"].weight) == ("int8", "int8")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize", 0),
        ("resize", 8193),
        ("crop", -1),
        ("crop", 100_000),
        ("std", [0.2, 0]),
        ("mean", []),
        ("size", [0, 9]),
        ("size", [9, 8193]),
        ("size", [9, 9]),
    ],
)
def test_preprocessing_has_bounds(field: str, value: object) -> None:
    adapter = TypeAdapter(Preprocess)

    adapter.validate_python({"resize": 8192, "crop": 1})
    with pytest.raises(ValidationError, match=field):
        adapter.validate_python({field: value})


@pytest.mark.parametrize("recipe", [DynamicInt8(), StaticInt8()])
def test_a_recipe_survives_json_and_refuses_unknown_fields(recipe: Recipe) -> None:
    adapter: TypeAdapter[Recipe] = TypeAdapter(Recipe)

    assert adapter.validate_json(adapter.dump_json(recipe)) == recipe
    with pytest.raises(ValidationError, match="bits"):
        adapter.validate_python(asdict(recipe) | {"bits": 3})


def test_everything_in_a_recipe_has_a_default() -> None:
    adapter: TypeAdapter[Recipe] = TypeAdapter(Recipe)

    assert adapter.validate_python({"method": "static_int8"}) == StaticInt8()
    assert adapter.validate_python({"method": "dynamic_int8"}) == DynamicInt8()


def test_recipes_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        DynamicInt8().weight = "int8"  # type: ignore[misc]


def test_only_static_recipes_need_data() -> None:
    assert needs_calibration(StaticInt8())
    assert not needs_calibration(DynamicInt8())
    assert (title(StaticInt8()), title(DynamicInt8())) == ("static int8", "dynamic int8")


@pytest.mark.parametrize(("name", "black", "white"), [("unit", 0, 1), ("signed", -1, 1), ("raw", 0, 255)])
def test_presets_map_black_and_white_as_their_names_say(name: str, black: float, white: float) -> None:
    p = PRESETS[name]

    assert (0 * p.scale - p.mean[0]) / p.std[0] == pytest.approx(black)
    assert (255 * p.scale - p.mean[0]) / p.std[0] == pytest.approx(white)
    assert PRESETS["unit"] == Preprocess()


def test_a_job_needs_nothing_but_a_version() -> None:
    assert TypeAdapter(JobSpec).validate_python({"version": "ver_1"}) == JobSpec(version="ver_1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"unknown": 1},
        {"benchmark": {"batch": 0}},
        {"benchmark": {"threads": 0}},
        {"deadline_s": 0},
        {"gate": {"max_accuracy_drop": math.nan}},
        {"gate": {"max_size_bytes": 1.5}},
        {"gate": {"against": "yesterday"}},
        {"gate": {"min_speedup": 0}},
        {"evaluation": {"metric": "f7"}},
        {"calibration": {"samples": 0}},
        {"target": {"isa": "z80"}},
        {"reuse": "maybe"},
    ],
)
def test_a_spec_refuses_what_it_does_not_know(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(JobSpec).validate_python({"version": "ver_1", **wrong})


def test_an_error_says_what_its_docstring_says_unless_told_more() -> None:
    assert str(NotFound()) == "There is nothing with this id in this project."
    assert str(NotFound("no such job")) == "no such job"
    assert issubclass(NotFound, DomainError)


def test_a_problem_survives_json() -> None:
    refusal = Refused("not_onnx", "This is a cat.", errors=(FieldError("/file", "a cat"),))
    problem = Problem.of(refusal)

    assert (problem.code, problem.detail) == ("not_onnx", "This is a cat.")
    assert Problem.from_json(asdict(problem)) == problem


def test_a_json_pointer_escapes_what_stands_for_something_in_it() -> None:
    assert pointer("inputs", "a/b~c", 0) == "/inputs/a~1b~0c/0"


def test_what_is_wrong_at_one_place_names_it_in_both_ways() -> None:
    error = InvalidInput.at("/since", "is no time")

    assert (error.detail, error.errors) == ("/since: is no time", (FieldError("/since", "is no time"),))


def test_a_refusal_is_a_problem_with_its_own_code() -> None:
    assert Problem.of(Refused("broken_tensor", "It is broken.")).code == "broken_tensor"
