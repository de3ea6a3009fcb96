"""`login`: the key to a service, kept for its owner alone."""

import os
import sys

import click


@click.command()
@click.argument("url", required=False)
def login(*, url: str | None) -> None:
    """Keep the key to the service at URL, and use that service from now on.

    The key is asked for, or read from standard input: it belongs into no command line.
    """
    from fewbits import access  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415
    from fewbits.errors import InvalidInput  # noqa: PLC0415

    there = access.checked(url or os.environ.get("FEWBITS_URL") or click.prompt("URL", err=True))
    asked = sys.stdin.isatty()
    key = (click.prompt("Key", hide_input=True, err=True) if asked else sys.stdin.readline()).strip()
    if not key:
        raise InvalidInput("There is no key on standard input.")
    with Client(there, key) as client:
        me = client.me()
    path = access.keep(there, key)
    click.echo(
        f"{there}: key {me.name!r} of project {me.project_name!r} ({', '.join(me.scopes)}), kept in {path}"
    )
