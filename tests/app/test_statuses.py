"""Which status an error becomes: what nobody listed is our mistake, not the client's."""

import importlib
import pkgutil
from collections.abc import Iterator

import app
from app.api.errors import STATUS, status_of
from app.domain.errors import DomainError, Refused
from app.domain.job import IllegalTransition
from app.services.steps import Stale


class Forgotten(DomainError):
    """An error that nobody listed."""

    code = "forgotten"


def kinds(kind: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


def test_every_error_of_the_service_has_a_listed_status() -> None:
    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    ours = [kind for kind in kinds() if kind.__module__.startswith("app.") and kind is not Refused]

    assert {Stale, IllegalTransition} < set(ours)
    assert [kind.__name__ for kind in ours if kind.code not in STATUS] == []


def test_what_the_service_did_wrong_does_not_blame_the_client() -> None:
    for error in (Forgotten(), Stale(), IllegalTransition()):
        assert status_of(error) == 500


def test_what_the_engine_refuses_is_the_uploads_fault_whatever_its_code() -> None:
    assert status_of(Refused("no_such_code_is_listed", "The model has no outputs.")) == 422
