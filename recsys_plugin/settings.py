"""The one place where configuration is read: environment variables, with defaults relative to one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from recsys_plugin.errors import ConfigurationError

__all__ = ["Settings", "parse_moment"]


def parse_moment(text: str, *, name: str) -> datetime:
    """Read an ISO 8601 date or date-time; without a zone it is UTC.

    Raises:
        ConfigurationError: if the text is not ISO 8601; the message names the setting.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}={text!r} is not an ISO 8601 time such as 2026-01-31T12:00:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ConfigurationError(f"RECSYS_IMPRESSIONS={text!r} is not a share from 0 to 1, such as 1 or 0.1")
    return share


def _ports(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if not all(number.isdecimal() for number in numbers) or not 0 <= int(first) <= int(numbers[1]) <= 65_535:
        raise ConfigurationError(
            f"RECSYS_METRICS_PORT={text!r} is no port or range of ports, such as 9464 or 9464-9479"
        )
    return tuple(range(int(first), int(numbers[1]) + 1))


def _traces_endpoint(env: Mapping[str, str]) -> str | None:
    """As the exporter of OpenTelemetry has it: a variable for all signals, and one for traces alone."""
    if "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in env:
        return env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    base = env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return None if base is None else base.rstrip("/") + "/v1/traces"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where everything is. Build it with :meth:`from_environment`; every field has one variable.

    =====================  ==========================================================================
    ``RECSYS_HOME``        folder holding ``feature_repo/``, ``model_repository/`` and the state folder
                           ``.recsys/``; the working directory if unset
    ``RECSYS_REDIS_URL``   ``redis://``, ``rediss://`` or ``unix://`` URL; unset means the embedded server
    ``RECSYS_TRITON_URL``  ``grpc://host:port`` or ``grpcs://host:port``; unset means the embedded server;
                           clients also take several, ``grpc://first:port,second:port``
    ``RECSYS_DATA``        folder with public data sets; unset means only those inside packages
    ``RECSYS_AS_OF``       ISO 8601 moment to treat as now, for historical data; unset means the clock
    ``RECSYS_TRITON_PYTHON``  interpreter of the environment with ``nvidia-pytriton``;
                           ``.venv-triton/bin/python`` in the home folder if unset
    ``RECSYS_SPOOL``       folder on a local disk that takes events while Redis is away; unset means none
    ``RECSYS_IMPRESSIONS``  share of served pages that are logged, 0 to 1; unset means none
    ``RECSYS_EXPLORATION``  how recommended pages are chosen: ``none``, ``epsilon:0.05``, ``gumbel:0.2`` or
                           ``thompson:FILE.npz``; unset means ``none``
    ``RECSYS_PSEUDONYM_KEY``  secret of 16 bytes or more by which user ids become pseudonyms, the same for
                           exports and clients; unset means that nobody is shown to others
    ``RECSYS_SNAPSHOT``    file from which a client can be opened while no server can be reached; it keeps the file
                           up to date; unset means none
    ``RECSYS_OPTED_OUT``   file with the ids or pseudonyms, one a line, of users whom exports leave out of
                           neighbours and communities; unset means nobody
    ``RECSYS_METRICS_PORT``  port, or range of ports such as ``9464-9479`` of which the first free one is taken,
                           where clients of this machine show Prometheus metrics; unset means none
    ``RECSYS_REQUEST_LOG``  file that takes slow and degraded requests, for `recsys doctor REQUEST_ID`; unset
                           means none
    ``OTEL_EXPORTER_OTLP_ENDPOINT``  collector that takes traces, and further variables of OpenTelemetry; unset
                           means none
    =====================  ==========================================================================
    """

    home: Path
    redis_url: str | None = None
    triton_url: str | None = None
    data: Path | None = None
    as_of: datetime | None = None
    triton_python: Path | None = None
    spool: Path | None = None
    impressions: float | None = None
    exploration: str | None = None
    pseudonym_key: str | None = field(default=None, repr=False)
    opted_out: Path | None = None
    metrics_ports: tuple[int, ...] = ()
    request_log: Path | None = None
    traces_endpoint: str | None = None
    """The whole URL."""
    snapshot: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables above from ``environ`` (``os.environ`` by default); empty counts as unset."""
        env = {k: v for k, v in (os.environ if environ is None else environ).items() if v}
        home = Path(env.get("RECSYS_HOME", ".")).expanduser().resolve()
        return cls(
            home=home,
            redis_url=env.get("RECSYS_REDIS_URL"),
            triton_url=env.get("RECSYS_TRITON_URL"),
            data=Path(env["RECSYS_DATA"]).expanduser().resolve() if "RECSYS_DATA" in env else None,
            as_of=parse_moment(env["RECSYS_AS_OF"], name="RECSYS_AS_OF") if "RECSYS_AS_OF" in env else None,
            triton_python=Path(
                env.get("RECSYS_TRITON_PYTHON", str(home / ".venv-triton" / "bin" / "python"))
            ).expanduser(),
            spool=Path(env["RECSYS_SPOOL"]).expanduser().resolve() if "RECSYS_SPOOL" in env else None,
            exploration=env.get("RECSYS_EXPLORATION"),
            pseudonym_key=env.get("RECSYS_PSEUDONYM_KEY"),
            opted_out=Path(env["RECSYS_OPTED_OUT"]).expanduser().resolve() if "RECSYS_OPTED_OUT" in env else None,
            metrics_ports=_ports(env.get("RECSYS_METRICS_PORT", "")),
            request_log=Path(env["RECSYS_REQUEST_LOG"]).expanduser().resolve() if "RECSYS_REQUEST_LOG" in env else None,
            traces_endpoint=_traces_endpoint(env),
            snapshot=Path(env["RECSYS_SNAPSHOT"]).expanduser().resolve() if "RECSYS_SNAPSHOT" in env else None,
            impressions=_share(env["RECSYS_IMPRESSIONS"]) if "RECSYS_IMPRESSIONS" in env else None,
        )

    @property
    def state(self) -> Path:
        """Everything made on this machine that is neither Feast's nor Triton's: ``.recsys/``."""
        return self.home / ".recsys"

    @property
    def tables(self) -> Path:
        """The validated canonical tables, as Parquet."""
        return self.state / "tables"

    @property
    def feature_repo(self) -> Path:
        """The Feast repository."""
        return self.home / "feature_repo"

    def require_feature_repo(self) -> Path:
        """:attr:`feature_repo`, which must be one.

        Raises:
            ConfigurationError: if it is not.
        """
        if not (self.feature_repo / "feature_store.yaml").is_file():
            raise ConfigurationError(
                f"{self.feature_repo} is no Feast repository; run in the checkout, or set RECSYS_HOME to it"
            )
        return self.feature_repo

    @property
    def model_repository(self) -> Path:
        """The Triton model repository."""
        return self.home / "model_repository"
