"""`models`, `jobs` and `candidates`: what there is."""

from typing import Any

import click

from fewbits.cli import options

limit = click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many."
)


@click.command()
@limit
@options.as_json
def models(*, limit: int, as_json: bool) -> None:
    """List the project's models, newest first."""
    from fewbits.cli import terminal, words  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415

    with Client() as client:
        found = list(client.models(limit=limit))
    if as_json:
        terminal.document([model.raw for model in found])
    else:
        terminal.table(("id", "name", "created"), [(m.id, m.name, words.moment(m.created_at)) for m in found])


@click.command()
@click.option("--state", metavar="STATE", help="Only in this state.")
@click.option("--conclusion", metavar="CONCLUSION", help="Only with this verdict.")
@click.option("--model", metavar="mdl_…", help="Only of this model.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only with this label.")
@limit
@options.as_json
def jobs(*, labels: tuple[str, ...], as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    """List the project's jobs, newest first."""
    from fewbits.cli import terminal, words  # noqa: PLC0415 - not for --help
    from fewbits.cli.asked import labels as pairs  # noqa: PLC0415
    from fewbits.client import Client  # noqa: PLC0415

    with Client() as client:
        found = list(client.jobs(labels=pairs(labels), **asked))
    if as_json:
        terminal.document([job.raw for job in found])
        return
    rows = [(j.id, j.state, j.conclusion or words.NONE, words.moment(j.created_at)) for j in found]
    terminal.table(("id", "state", "conclusion", "created"), rows)


@click.command()
@click.argument("job")
@options.as_json
def candidates(*, job: str, as_json: bool) -> None:
    """Show what each candidate of JOB costs and wins."""
    from fewbits.cli import outcome, terminal  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415

    with Client() as client:
        found = list(client.candidates(job))
    if as_json:
        terminal.document([candidate.raw for candidate in found])
    else:
        outcome.table(found)
