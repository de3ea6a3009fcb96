"""Requests under way: a project that keeps many leaves room, and so do several together."""

from contextlib import ExitStack

import pytest

from app import listen
from app.api import crowd
from app.api.crowd import Crowd


def fill(stack: ExitStack, here: Crowd, project: str) -> int:
    """How many requests a project gets that takes all it may."""
    count = 0
    while here.may_join(project):
        stack.enter_context(here.joined(project))
        count += 1
    return count


def test_a_project_alone_may_have_three_quarters_of_all_requests() -> None:
    with ExitStack() as stack:
        assert fill(stack, Crowd(), "prj_a") == crowd.REQUESTS * 3 // 4


def test_projects_that_take_all_they_may_leave_room_for_another_one() -> None:
    here = Crowd()
    with ExitStack() as stack:
        taken = [fill(stack, here, f"prj_{number}") for number in range(10)]

        assert taken == [768, 154, 31, 6, 1, 1, 1, 1, 1, 1]
        assert here.may_join("prj_new")


def test_the_last_places_go_one_by_one_to_projects_that_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "REQUESTS", crowd.KEPT_FREE)
    here = Crowd()
    with ExitStack() as stack:
        taken = [fill(stack, here, f"prj_{number}") for number in range(crowd.KEPT_FREE)]

        assert taken == [1] * crowd.KEPT_FREE
        assert not here.may_join("prj_new")


def test_requests_that_end_make_room() -> None:
    here = Crowd()
    with ExitStack() as stack:
        fill(stack, here, "prj_a")
        assert not here.may_join("prj_a")

    assert here.may_join("prj_a")


def test_the_server_takes_as_many_requests_as_projects_may_have() -> None:
    assert crowd.REQUESTS == listen.REQUESTS
