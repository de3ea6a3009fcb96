"""The comment on a pull or merge request, against a forge that keeps comments as GitHub and GitLab do."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewbits import InvalidInput, ServiceError, forge
from tests.client import forges


@pytest.fixture(scope="module")
def running() -> Iterator[forges.Forge]:
    with forges.forge() as kept:
        yield kept


@pytest.fixture(params=["github", "gitlab", "gitlab, on a branch"])
def pipeline(request: pytest.FixtureRequest, running: forges.Forge, tmp_path: Path) -> dict[str, str]:
    """What a pipeline of a pull or merge request has in its environment."""
    running.comments.clear()
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    github = {
        "GITHUB_API_URL": running.url,
        "GITHUB_REPOSITORY": "team/model",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_TOKEN": "right",
    }
    gitlab = {
        "GITLAB_CI": "true",
        "CI_API_V4_URL": running.url,
        "CI_PROJECT_ID": "4",
        "GITLAB_TOKEN": "right",
    }
    merge_request = {"CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_PROJECT_ID": "3"}
    branch = {"CI_OPEN_MERGE_REQUESTS": "team/model!7,team/other!12"}
    known = {"github": github, "gitlab": gitlab | merge_request, "gitlab, on a branch": gitlab | branch}
    return known[request.param]


def written(env: dict[str, str], text: str, mark: str = "gate") -> str:
    where = forge.thread(env)
    assert where
    return forge.comment(where, text, mark)


def test_later_runs_write_the_same_comment_anew(running: forges.Forge, pipeline: dict[str, str]) -> None:
    running.comments += [{"id": i, "body": f"discussion {i}"} for i in range(150)]

    done = [written(pipeline, "one"), written(pipeline, "two"), written(pipeline, "three", "another")]

    assert done == ["added", "changed", "added"]
    ours = [one["body"] for one in running.comments[150:]]
    assert ours == ["<!-- fewbits: gate -->\ntwo", "<!-- fewbits: another -->\nthree"]


def test_the_comment_goes_to_the_project_that_has_the_request(
    request: pytest.FixtureRequest, running: forges.Forge, pipeline: dict[str, str]
) -> None:
    running.paths.clear()

    written(pipeline, "text")

    assert (
        running.paths[0]
        == {
            "github": "/repos/team/model/issues/7/comments",
            "gitlab": "/projects/3/merge_requests/7/notes",
            "gitlab, on a branch": "/projects/team%2Fmodel/merge_requests/7/notes",
        }[request.node.callspec.params["pipeline"]]
    )


def test_a_token_that_may_not_comment_is_told_so(pipeline: dict[str, str]) -> None:
    wrong = {name: "wrong" if name.endswith("TOKEN") else value for name, value in pipeline.items()}

    with pytest.raises(ServiceError, match=r"403.*not accessible"):
        written(wrong, "text")


def test_a_token_that_is_missing_is_named(pipeline: dict[str, str]) -> None:
    without = {name: value for name, value in pipeline.items() if not name.endswith("TOKEN")}

    with pytest.raises(InvalidInput, match="TOKEN is not set"):
        forge.thread(without)


def test_a_push_has_nothing_to_comment_on(tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text('{"ref": "refs/heads/main"}')

    assert forge.thread({"GITHUB_EVENT_PATH": str(event)}) is None
    assert forge.thread({"GITLAB_CI": "true"}) is None
    assert forge.thread({}) is None
