"""The environment variables that point a process at one home folder, its servers and its moment."""

from __future__ import annotations

import json

from recsys_plugin.errors import StepFailed
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.services import Services

__all__ = ["environment_variables"]


def environment_variables(services: Services) -> dict[str, str]:
    """Name -> value; ``feature_repo/feature_store.yaml`` reads the two ``RECSYS_FEAST_`` ones.

    Raises:
        ConfigurationError: if the Redis URL is malformed.
        StepFailed: if the description of the tables cannot be read.
    """
    settings = services.settings
    address = RedisAddress.parse(services.redis_url)
    variables = {
        "RECSYS_HOME": str(settings.home),
        "RECSYS_REDIS_URL": services.redis_url,
        "RECSYS_TRITON_URL": services.triton_url,
        "RECSYS_FEAST_REDIS": address.feast_connection_string(),
        "RECSYS_FEAST_REDIS_TYPE": address.feast_redis_type(),
    }
    description = settings.tables / "dataset.json"
    if settings.as_of is not None:
        variables["RECSYS_AS_OF"] = settings.as_of.isoformat()
    elif description.exists():
        try:
            dataset = json.loads(description.read_text())
            if dataset["historical"]:
                variables["RECSYS_AS_OF"] = str(dataset["as_of"])
        except (ValueError, KeyError, TypeError) as error:
            raise StepFailed(f"{description} is malformed ({error!r}); run `recsys data` again") from error
    return variables
