"""From a job's start to its outcome, with somebody watching."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from fewbits.answers import Job
from fewbits.cli import display, outcome, terminal
from fewbits.cli.display import Display
from fewbits.cli.options import Outputs
from fewbits.cli.outcome import Outcome
from fewbits.client import Client
from fewbits.errors import FewbitsError, Refused

LOOK_S = 1.0  # the least time between two looks at a job's steps
Start = Callable[[Client, Display], Job]


def begin(start: Start, *, as_json: bool) -> int:
    """Start a job, and print its id or itself."""
    with Client() as client, display.shown() as shown:
        job = start(client, shown)
    if as_json:
        terminal.document(job.raw)
    else:
        click.echo(job.id)
    return 0


def finish(start: Start, outputs: Outputs, timeout: float | None, output: Path | None) -> int:
    """Start a job, follow it to its end, write what came of it; returns the exit code."""
    known: list[Job] = []
    try:
        with Client() as client:
            found = _outcome(client, start, known, timeout, output)
    except FewbitsError as error:
        click.echo(f"fewbits: {error}", err=True)
        found = outcome.failed(error, known[-1] if known else None)
    return outcome.deliver(found, outputs)


def _outcome(
    client: Client, start: Start, known: list[Job], timeout: float | None, output: Path | None
) -> Outcome:
    """As far as it comes, `known` holds what was last known of the job."""
    try:
        with display.shown() as shown:
            known.append(start(client, shown))
            shown.say(f"job {known[-1].id}: {client.url}/v1/jobs/{known[-1].id}/report")
            _follow(client, known[-1].id, shown, timeout)
            known.append(client.job(known[-1].id))
            found = outcome.concluded(client, known[-1])
            if output and (best := known[-1].best):
                client.download(best, output, tell=shown.file)
    except KeyboardInterrupt:
        _interrupted(client, known)
        raise click.Abort from None
    return found


def _follow(client: Client, job_id: str, shown: Display, timeout: float | None) -> None:
    looked = 0.0
    for event in client.watch(job_id, timeout=timeout):
        if event.type != "progress" or time.monotonic() - looked > LOOK_S:
            shown.steps(client.steps(job_id))
            looked = time.monotonic()
    shown.steps(client.steps(job_id))


def _interrupted(client: Client, known: list[Job]) -> None:
    """Ask whether the job is to end too; where nobody can answer, it goes on."""
    if not known:
        click.echo("No job was started. What was sent stays there: the same line goes on with it.", err=True)
        return
    job_id = known[-1].id
    wanted = False
    if terminal.is_live(terminal.errors()):
        with suppress(click.Abort, KeyboardInterrupt):
            wanted = click.confirm(f"\nCancel the job {job_id} too?", default=False, err=True)
    if wanted:
        click.echo(_canceled(client, job_id), err=True)
    else:
        click.echo(f"{job_id} goes on. To its end: fewbits watch {job_id}", err=True)


def _canceled(client: Client, job_id: str) -> str:
    try:
        client.cancel(job_id)
    except Refused as error:  # it has ended meanwhile
        return str(error)
    return f"{job_id} is canceled."
