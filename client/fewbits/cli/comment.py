"""`comment`: a report where a change is discussed."""

import os
from pathlib import Path

import click

from fewbits.cli import options


@click.command()
@click.argument("report", type=options.EXISTING)
@click.option("--mark", default="gate", show_default=True, help="Tells the comments of several jobs apart.")
def comment(*, report: Path, mark: str) -> None:
    """Write REPORT into the pull or merge request that this pipeline runs for, in place of the last one.

    GitHub: GITHUB_TOKEN with `pull-requests: write`. GitLab: GITLAB_TOKEN with the scope api.
    """
    from fewbits import forge  # noqa: PLC0415 - not for --help

    where = forge.thread(os.environ)
    if where is None:
        click.echo("This pipeline runs for no pull or merge request: no comment.", err=True)
        return
    done = forge.comment(where, report.read_text(encoding="utf-8"), mark)
    click.echo(f"The comment {mark!r} is {done}.", err=True)
