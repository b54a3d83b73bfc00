"""Every error this package raises on purpose, drawn as a tree.

::

    RecsysError
    ├── InvalidInput            the caller's argument or file is wrong           exit code 2
    │   ├── DataError           a table is malformed: names file, column, row    exit code 2
    │   └── EventRefused        something is no event: says why                  exit code 2
    ├── ConfigurationError      a setting is missing or contradicts another      exit code 2
    ├── CheckFailed             a check or threshold was not met                 exit code 3
    │   ├── FeatureContractError   model and feature store disagree              exit code 3
    │   ├── ModelRefused           models are not what was exported, or signed   exit code 3
    │   └── NoOverlap              what was logged says nothing about a policy   exit code 3
    ├── StepFailed              a pipeline step could not finish                 exit code 1
    └── ServiceUnavailable      a server did not answer as it should             exit code 1
        ├── StoreUnavailable        Redis
        │   └── SpoolFull               and the local spool has no room for the event
        ├── InferenceUnavailable    Triton
        │   └── ReleaseChanged          another model version was loaded meanwhile
        ├── DeadlineExceeded        the time allowed for the call ran out
        └── Overloaded              this client has too much to do: says when to ask again

Each message says what was wrong, where, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "CheckFailed",
    "ConfigurationError",
    "DataError",
    "DeadlineExceeded",
    "FeatureContractError",
    "InferenceUnavailable",
    "InvalidInput",
    "ModelRefused",
    "NoOverlap",
    "Overloaded",
    "RecsysError",
    "ReleaseChanged",
    "ServiceUnavailable",
    "StepFailed",
    "StoreUnavailable",
]


class RecsysError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class InvalidInput(RecsysError, ValueError):
    """The caller's argument or file is wrong; calling again unchanged fails again."""

    exit_code = 2


class DataError(InvalidInput):
    """A canonical table is malformed.

    ``file``, ``column`` and ``row`` (1-based, the header not counted) say where, as far as each is known.
    """

    def __init__(self, reason: str, *, file: str, column: str | None = None, row: int | None = None) -> None:
        self.reason, self.file, self.column, self.row = reason, file, column, row
        where = file
        if column is not None:
            where += f", column {column!r}"
        if row is not None:
            where += f", row {row}"
        super().__init__(f"{where}: {reason}")


class ConfigurationError(RecsysError):
    """A setting is missing or contradicts another."""

    exit_code = 2


class CheckFailed(RecsysError):
    """A check ran and its threshold was not met."""

    exit_code = 3


class FeatureContractError(CheckFailed):
    """A model's feature contract and the feature store disagree; the message names each difference."""


class ModelRefused(CheckFailed):
    """A version of the models is not what its manifest and signature say, so it is not loaded."""


class NoOverlap(CheckFailed):
    """The policy to evaluate would never have done what was logged: no weighting of the log can tell its value."""


class StepFailed(RecsysError):
    """A pipeline step could not finish; what it had completed is kept."""


class ServiceUnavailable(RecsysError):
    """A server did not answer as it should; calling again later may succeed."""


class StoreUnavailable(ServiceUnavailable):
    """Redis did not answer as it should."""


class InferenceUnavailable(ServiceUnavailable):
    """Triton did not answer as it should."""


class ReleaseChanged(InferenceUnavailable):
    """The steps of a model were of different versions: another was being loaded; clients refresh and ask again."""


class DeadlineExceeded(ServiceUnavailable):
    """The time allowed for the call ran out before the answer came."""


class Overloaded(ServiceUnavailable):
    """This client has as many requests under way as it may have, and the turn of one more would come too late.

    ``retry_after``: seconds after which it is worth while to ask again.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"{message} (in {retry_after:.3f} s or later)")
