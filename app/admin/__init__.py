"""The operator's commands: `python -m app.admin COMMAND [--json]`."""
