"""`python -m popexd.cli`: the command without its console script."""

from popexd.cli.main import main

main()
