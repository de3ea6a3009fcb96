"""`completion`: the script with which a shell completes `fewbits`."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print what makes SHELL complete `fewbits`: put it into the shell's start file.

    bash: eval "$(fewbits completion bash)" in ~/.bashrc; zsh likewise in ~/.zshrc;
    fish: fewbits completion fish > ~/.config/fish/completions/fewbits.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - it is one of click's own
    click.echo(kind(context.find_root().command, {}, "fewbits", "_FEWBITS_COMPLETE").source())
