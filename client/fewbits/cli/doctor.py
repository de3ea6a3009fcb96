"""`doctor`: is everything ready, and what to do where it is not."""

import platform
import time
from collections.abc import Iterator
from pathlib import Path

import click
import httpx

from fewbits import __version__, access, jobfile
from fewbits.access import Access
from fewbits.client import Client
from fewbits.errors import FewbitsError, ServiceError

GROUP_AND_OTHERS = 0o077


@click.command()
def doctor() -> int:
    """Look whether everything is ready, and say what to do where it is not."""
    click.echo(f"✓ fewbits {__version__} on Python {platform.python_version()}")
    return max(_look(lines()) for lines in (_service, _config, _job_file))


def _look(lines: Iterator[str]) -> int:
    """Print what is well, and what is not; returns the exit code."""
    try:
        for line in lines:
            click.echo(f"✓ {line}")
    except FewbitsError as error:
        click.echo(f"✗ {error}")
        return error.exit_code
    return 0


def _service() -> Iterator[str]:
    found = access.find()
    yield f"service {found.url} (from {found.url_from})"
    yield f"key (from {found.key_from})"
    yield from _answers(found)
    with Client(found.url, found.key) as client:
        me = client.me()
    until = f", until {me.expires_at:%Y-%m-%d %H:%M} UTC" if me.expires_at else ""
    yield f"key {me.name!r} of project {me.project_name!r}: {', '.join(me.scopes)}{until}"
    if not {"read", "write"} <= set(me.scopes):
        raise FewbitsError(f"The key {me.name!r} has no scope read and write; jobs need both.")


def _answers(found: Access) -> Iterator[str]:
    begun = time.monotonic()
    try:
        answer = httpx.get(f"{found.url}/readyz", timeout=10, trust_env=not found.local)
        status = answer.json().get("status", "unknown")
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        raise ServiceError(f"{found.url} does not answer as a Fewbits does ({error}). Is it up?") from error
    if not answer.is_success:
        raise ServiceError(f"{found.url} is {status}: {answer.text}")
    yield f"it is {status}, and answers in {1000 * (time.monotonic() - begun):.0f} ms"


def _config() -> Iterator[str]:
    path = access.config_file()
    if not path.exists():
        return
    if path.stat().st_mode & GROUP_AND_OTHERS and platform.system() != "Windows":
        raise FewbitsError(f"{path} can be read by others; chmod 600 it.")
    yield f"config file {path}"


def _job_file() -> Iterator[str]:
    path = Path(jobfile.NAME)
    if not path.exists():
        return
    found = jobfile.load(path)
    for given in (found.model, found.data):
        if given and not given.startswith(("ver_", "dst_")) and not Path(given).exists():
            raise FewbitsError(f"{path} names {given}, which does not exist.")
    yield f"{path}: model {found.model or '–'}, data {found.data or '–'}"
