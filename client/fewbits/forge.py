"""The comment on a pull or merge request: one for each mark, written anew by each pipeline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from fewbits.errors import InvalidInput, ServiceError

LONGEST = 60_000  # GitHub takes 65,536 characters
PAGE = 100
SECONDS = 30.0


@dataclass(frozen=True)
class Thread:
    """The comments of one pull or merge request.

    `comments` is where they are listed and added, `comment` where one of them is changed, by its `{id}`.
    """

    comments: str
    comment: str
    headers: dict[str, str]
    change: str


def thread(env: Mapping[str, str]) -> Thread | None:
    """The request that this pipeline runs for; None when it runs for none.

    Raises:
        InvalidInput: It runs for one, and there is no token to comment with.
    """
    return _on_gitlab(env) if env.get("GITLAB_CI") else _on_github(env)


def comment(where: Thread, text: str, mark: str) -> str:
    """Write the comment with this mark, in place of the one before; returns `added` or `changed`.

    Raises:
        ServiceError: The forge does not let us.
    """
    sign = f"<!-- fewbits: {mark} -->"
    body = {"body": f"{sign}\n{text[:LONGEST]}"}
    with httpx.Client(headers=where.headers, timeout=SECONDS) as forge:
        try:
            known = _find(forge, where, sign)
            if known is None:
                forge.post(where.comments, json=body).raise_for_status()
                return "added"
            forge.request(where.change, where.comment.format(id=known), json=body).raise_for_status()
        except httpx.HTTPStatusError as error:
            answer = error.response
            raise ServiceError(
                f"{answer.request.url} answers {answer.status_code}: {answer.text[:300]}"
            ) from error
        except httpx.HTTPError as error:
            raise ServiceError(f"{where.comments} does not answer: {error}") from error
    return "changed"


def _find(forge: httpx.Client, where: Thread, sign: str) -> int | None:
    """The id of the comment that begins with the sign."""
    page = 1
    while True:
        answer = forge.get(where.comments, params={"per_page": PAGE, "page": page}).raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        for one in found:
            if str(one.get("body", "")).startswith(sign):
                return int(one["id"])
        if len(found) < PAGE:
            return None
        page += 1


def _on_github(env: Mapping[str, str]) -> Thread | None:
    """Issues' comments (REST API 2022-11-28), by the event that started the workflow."""
    event = env.get("GITHUB_EVENT_PATH")
    number = _pull_request(Path(event)) if event else None
    if number is None:
        return None
    token = _token(env, "GITHUB_TOKEN", "with `permissions: pull-requests: write`")
    here = f"{env.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{env['GITHUB_REPOSITORY']}/issues"
    headers = {"authorization": f"Bearer {token}", "accept": "application/vnd.github+json"}
    return Thread(f"{here}/{number}/comments", here + "/comments/{id}", headers, "PATCH")


def _pull_request(event: Path) -> int | None:
    found = json.loads(event.read_text())
    number = (found.get("pull_request") or {}).get("number")
    return None if number is None else int(number)


def _on_gitlab(env: Mapping[str, str]) -> Thread | None:
    """Merge requests' notes (REST API v4)."""
    found = _merge_request(env)
    if found is None:
        return None
    project, number = found
    token = _token(env, "GITLAB_TOKEN", "a project access token with the scope api, as a masked variable")
    notes = f"{env['CI_API_V4_URL']}/projects/{project}/merge_requests/{number}/notes"
    return Thread(notes, notes + "/{id}", {"private-token": token}, "PUT")


def _merge_request(env: Mapping[str, str]) -> tuple[str, str] | None:
    """Project and number: of the pipeline's own merge request, or of the first that is open for its branch.

    A merge request from a fork belongs to the project that it should be merged into.
    """
    if number := env.get("CI_MERGE_REQUEST_IID"):
        return env["CI_MERGE_REQUEST_PROJECT_ID"], number
    first = env.get("CI_OPEN_MERGE_REQUESTS", "").partition(",")[0]  # team/model!7,team/other!3
    path, _, number = first.rpartition("!")
    return (quote(path, safe=""), number) if number else None


def _token(env: Mapping[str, str], name: str, what: str) -> str:
    token = env.get(name)
    if not token:
        raise InvalidInput(f"{name} is not set, so nobody can comment; set it ({what}).")
    return token
