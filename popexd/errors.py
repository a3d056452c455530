"""Every error popexd raises.

::

    PopexdError
    ├── InputError            a file or option from the user is wrong        exit status 2
    │   ├── ConfigurationError
    │   ├── ProfileError
    │   └── BundleError
    ├── Infeasible            no plan satisfies the constraints              exit status 1
    ├── Rejected              a message from outside is refused and counted  never fatal
    │   ├── FrameRejected
    │   └── MessageRejected
    └── BusError              the broker cannot be reached or refuses us
"""

from __future__ import annotations

from typing import Any


class PopexdError(Exception):
    """The ancestor of every error raised on purpose."""


class InputError(PopexdError):
    """Something the user wrote is wrong; the text says where, what, and what was expected."""


class ConfigurationError(InputError):
    """A configuration file or environment variable is wrong."""


class ProfileError(InputError):
    """A layer profile file is wrong."""


class BundleError(InputError):
    """A model bundle is incomplete, altered or of another version."""


class Infeasible(PopexdError):
    """No plan satisfies the constraints; the text says which constraint fails and by how much.

    `nearest` holds the plans that come closest, where the solver looked for them.
    """

    def __init__(self, text: str = "", nearest: tuple[Any, ...] = ()) -> None:
        super().__init__(text)
        self.nearest = nearest


class Rejected(PopexdError):
    """A message from outside is refused.

    `reason` is a short stable key to count by; `detail` is for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class FrameRejected(Rejected):
    """A camera frame cannot be used."""


class MessageRejected(Rejected):
    """A tensor message, reply or request cannot be used."""


class BusError(PopexdError):
    """The broker cannot be reached, speaks another protocol version, or refuses us."""
