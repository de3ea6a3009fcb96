"""`datasets check`: whether samples fit a model, before any job."""

from typing import Any

import click

from fewbits.cli import options

UNFIT = 2


@click.group()
def datasets() -> None:
    """Check samples before any job."""


@datasets.command()
@click.argument("data", type=options.FILE_OR_ID)
@click.option(
    "--model",
    required=True,
    type=options.FILE_OR_ID,
    metavar="FILE|ver_…",
    help="The model that they should fit.",
)
@options.preprocess
@options.bound
@options.gate
@options.as_json
def check(
    *,
    data: str,
    model: str,
    preprocess: str | None,
    bound: str | None,
    as_json: bool,
    **limits: Any,  # noqa: ANN401
) -> int:
    """Say whether DATA (a file, or dst_…) fits a model, and how small a drop it can decide."""
    from fewbits.cli import asked, display, terminal  # noqa: PLC0415 - not for --help
    from fewbits.client import Client  # noqa: PLC0415

    with Client() as client, display.shown() as shown:
        version = model if model.startswith("ver_") else client.upload_model(model, tell=shown.file).id
        spec = asked.preprocess(preprocess)
        dataset = data
        if not data.startswith("dst_"):
            dataset = client.upload_dataset(data, preprocess=spec, input=bound, tell=shown.file).id
        fit = client.check_dataset(dataset, version, gate=options.limits_given(limits))
    if as_json:
        terminal.document(fit.raw)
    else:
        for finding in fit.findings:
            click.echo(f"{finding.level}: {finding.pointer}: {finding.detail}")
        for line in decidable(fit.decidable):
            click.echo(line)
        click.echo(f"{data} {'fits' if fit.fits else 'does not fit'} {model}.")
    return 0 if fit.fits else UNFIT


def decidable(found: dict[str, Any] | None) -> list[str]:
    """How small a drop the samples can decide."""
    if not found:
        return []
    lines = [
        f"If {row['flip_rate']:.0%} of {found['samples']} samples flip, a drop of "
        f"{100 * row['smallest_drop']:.2f} points can be decided."
        for row in found["drops"]
    ]
    for limit in found["limits"]:
        needed = ", ".join(f"{n['samples']} if {n['flip_rate']:.0%} flip" for n in limit["needed"])
        lines.append(f"{limit['name']} {limit['limit']:g} needs samples: {needed}.")
    return lines
