"""The one place where configuration is read: environment variables, with defaults relative to one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from recsys_plugin.digits import whole_number
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.limits import MOST_SECRET_BYTES

__all__ = ["SECRETS", "Settings", "parse_moment", "with_secret_files"]

#: Variables that may hold a secret: each can be given as a file by the same name and ``_FILE``.
SECRETS = ("RECSYS_REDIS_URL", "RECSYS_TRITON_URL", "RECSYS_PSEUDONYM_KEY", "RECSYS_MODEL_KEY")


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


def _path(env: Mapping[str, str], name: str) -> Path | None:
    """A variable that names a file or folder, a user's home (``~``) put in."""
    if name not in env:
        return None
    try:
        return Path(env[name]).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{name}={env[name]!r}: {error}") from error


def _resolved(env: Mapping[str, str], name: str) -> Path | None:
    path = _path(env, name)
    return None if path is None else path.resolve()


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ConfigurationError(f"RECSYS_IMPRESSIONS={text!r} is not a share from 0 to 1, such as 1 or 0.1")
    return share


def with_secret_files(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set, those of :data:`SECRETS` read from the files that ``…_FILE`` name.

    Raises:
        ConfigurationError: if a file cannot be read, is no UTF-8 text, is too large or empty, or if the variable is set
            as well; the message names variable and file, and says nothing of what is in it.
    """
    env = {name: value for name, value in environ.items() if value}
    for name in SECRETS:
        file = env.pop(f"{name}_FILE", None)
        if file is None:
            continue
        if name in env:
            raise ConfigurationError(f"{name} and {name}_FILE are both set; unset one of them")
        env[name] = _secret_in(file, f"{name}_FILE")
    return env


def _secret_in(file: str, name: str) -> str:
    try:
        with open(file, "rb") as source:
            data = source.read(MOST_SECRET_BYTES + 1)
        text = data.decode().strip()
    except OSError as error:
        raise ConfigurationError(f"{name}={file!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}={file!r} is no UTF-8 text") from None  # the error would show the bytes
    if not text or len(data) > MOST_SECRET_BYTES:
        raise ConfigurationError(f"{name}={file!r} is empty, or larger than {MOST_SECRET_BYTES} bytes")
    return text


def _ports(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    lowest, highest = (whole_number(number) for number in numbers)
    if lowest is None or highest is None or not lowest <= highest <= 65_535:
        raise ConfigurationError(
            f"RECSYS_METRICS_PORT={text!r:.60} is no port or range of ports, such as 9464 or 9464-9479"
        )
    return tuple(range(lowest, highest + 1))


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
    ``RECSYS_MODEL_KEY``   secret of 16 bytes or more that signs exported models and without which servers load none,
                           see :mod:`recsys_plugin.security.model_manifest`; unset means digests without a signature
    ``RECSYS_OPTED_OUT``   file with the ids or pseudonyms, one a line, of users whom exports leave out of
                           neighbours and communities; unset means nobody
    ``RECSYS_METRICS_PORT``  port, or range of ports such as ``9464-9479`` of which the first free one is taken,
                           where clients of this machine show Prometheus metrics; unset means none
    ``RECSYS_REQUEST_LOG``  file that takes slow and degraded requests, for `recsys doctor REQUEST_ID`; unset
                           means none
    ``OTEL_EXPORTER_OTLP_ENDPOINT``  collector that takes traces, and further variables of OpenTelemetry; unset
                           means none
    =====================  ==========================================================================

    The four that may hold a secret, :data:`SECRETS`, can be given as files instead, as Docker and Kubernetes do it:
    ``RECSYS_REDIS_URL_FILE=/run/secrets/redis_url``. No secret is shown by ``repr``.
    """

    home: Path
    redis_url: str | None = field(default=None, repr=False)
    triton_url: str | None = field(default=None, repr=False)
    data: Path | None = None
    as_of: datetime | None = None
    triton_python: Path | None = None
    spool: Path | None = None
    impressions: float | None = None
    exploration: str | None = None
    pseudonym_key: str | None = field(default=None, repr=False)
    model_key: str | None = field(default=None, repr=False)
    opted_out: Path | None = None
    metrics_ports: tuple[int, ...] = ()
    request_log: Path | None = None
    traces_endpoint: str | None = None
    """The whole URL."""
    snapshot: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables above from ``environ`` (``os.environ`` by default); empty counts as unset.

        Raises:
            ConfigurationError: if a value makes no sense, a secret's file cannot be read, or is given twice.
        """
        env = with_secret_files(os.environ if environ is None else environ)
        home = (_path(env, "RECSYS_HOME") or Path()).resolve()
        return cls(
            home=home,
            redis_url=env.get("RECSYS_REDIS_URL"),
            triton_url=env.get("RECSYS_TRITON_URL"),
            data=_resolved(env, "RECSYS_DATA"),
            as_of=parse_moment(env["RECSYS_AS_OF"], name="RECSYS_AS_OF") if "RECSYS_AS_OF" in env else None,
            triton_python=_path(env, "RECSYS_TRITON_PYTHON") or home / ".venv-triton" / "bin" / "python",
            spool=_resolved(env, "RECSYS_SPOOL"),
            exploration=env.get("RECSYS_EXPLORATION"),
            pseudonym_key=env.get("RECSYS_PSEUDONYM_KEY"),
            model_key=env.get("RECSYS_MODEL_KEY"),
            opted_out=_resolved(env, "RECSYS_OPTED_OUT"),
            metrics_ports=_ports(env.get("RECSYS_METRICS_PORT", "")),
            request_log=_resolved(env, "RECSYS_REQUEST_LOG"),
            traces_endpoint=_traces_endpoint(env),
            snapshot=_resolved(env, "RECSYS_SNAPSHOT"),
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
