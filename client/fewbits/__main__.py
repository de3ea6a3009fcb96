"""`python -m fewbits` is the command `fewbits`."""

from fewbits.cli.main import main

main()
