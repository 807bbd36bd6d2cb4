"""`python -m pellucid.cli`."""

from pellucid.cli import main

main()
