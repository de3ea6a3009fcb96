"""`verdict`, `compare` and `download`: what came of a job."""

from pathlib import Path

import click

from fewbits.cli import options
from fewbits.cli.options import Outputs


@click.command()
@click.argument("job")
@options.outputs
def verdict(*, job: str, outputs: Outputs) -> int:
    """Show the verdict on JOB, which has ended, and end by it."""
    from fewbits.cli import outcome  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415

    with Client() as client:
        found = outcome.concluded(client, client.job(job))
    return outcome.deliver(found, outputs)


@click.command()
@click.argument("a")
@click.argument("b")
@options.as_json
def compare(*, a: str, b: str, as_json: bool) -> None:
    """Put the candidates A and B side by side, also of different jobs."""
    from fewbits.cli import terminal, words  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415

    with Client() as client:
        found = client.compare(a, b)
    if as_json:
        terminal.document(found.raw)
        return
    rows = []
    for d in found.differences:
        ci = f"{words.number(d.ci[0])}…{words.number(d.ci[1])}" if d.ci else words.NONE
        figures = (d.figure, words.number(d.a), words.number(d.b))
        rows.append((*figures, words.number(d.change), ci, d.better or "", d.reason or ""))
    names = (f"a: {found.a.name}", f"b: {found.b.name}")
    terminal.table(("figure", *names, "change", "95 % CI", "better", ""), rows)
    for note in found.notes:
        click.echo(note)


@click.command()
@click.argument("what", metavar="CANDIDATE|JOB")
@click.option("-o", "--output", type=options.WRITABLE, metavar="FILE", help="Default: the id and .onnx.")
@click.option("--snippet", type=options.WRITABLE, metavar="FILE", help="Also write Python that runs it.")
def download(*, what: str, output: Path | None, snippet: Path | None) -> None:
    """Bring a quantized model here: CANDIDATE's, or the best of JOB."""
    from fewbits.cli import display  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415
    from fewbits.errors import InvalidInput  # noqa: PLC0415

    with Client() as client, display.shown() as shown:
        candidate = client.job(what).best if what.startswith("job_") else what
        if candidate is None:
            raise InvalidInput(f"The job {what} has no best candidate; `fewbits verdict {what}` says why.")
        found = client.download(candidate, output or Path(f"{candidate}.onnx"), tell=shown.file)
        code = client.candidate(candidate).snippet if snippet else None
    if snippet:
        _write(snippet, code, found)
    click.echo(found)


def _write(snippet: Path, code: str | None, model: Path) -> None:
    """Write the code that runs a model, with the name that the model has here."""
    from fewbits.errors import InvalidInput  # noqa: PLC0415 - not for --help

    if code is None:
        raise InvalidInput(f"There is no code for {model}: no example of its inputs is known.")
    lines = [f"model = {str(model)!r}" if line.startswith("model = ") else line for line in code.splitlines()]
    snippet.write_text("\n".join(lines) + "\n", encoding="utf-8")
