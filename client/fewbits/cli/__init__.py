"""The command `fewbits`. Modules import what they need when a command runs: `--help` must not wait for it."""
