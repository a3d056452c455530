"""A command run in this process, as from a shell."""

from __future__ import annotations

import pytest

from popexd.cli.main import main


def status(*words: object) -> int:
    """Run the command and return its exit status."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)
