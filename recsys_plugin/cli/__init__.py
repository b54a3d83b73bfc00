"""The ``recsys`` command. Each command lives in the module named beside it and is imported only when called."""

from __future__ import annotations

import sys

__all__ = ["main"]

#: command -> "module:attribute"; the order is the order of ``recsys --help``.
COMMANDS = {
    "demo": "recsys_plugin.cli.demo:demo",
    "data": "recsys_plugin.cli.data:data",
    "apply": "recsys_plugin.cli.pipeline:apply",
    "train": "recsys_plugin.cli.pipeline:train",
    "report": "recsys_plugin.cli.report:report",
    "select": "recsys_plugin.cli.select:select",
    "forecast": "recsys_plugin.cli.forecast:forecast",
    "retrain": "recsys_plugin.cli.retrain:retrain",
    "refresh": "recsys_plugin.cli.retrain:refresh",
    "materialize": "recsys_plugin.cli.pipeline:materialize",
    "export": "recsys_plugin.cli.pipeline:export",
    "up": "recsys_plugin.cli.servers:up",
    "down": "recsys_plugin.cli.servers:down",
    "status": "recsys_plugin.cli.servers:status",
    "models": "recsys_plugin.cli.models:models",
    "trial": "recsys_plugin.cli.trial:trial",
    "rules": "recsys_plugin.cli.rules:rules",
    "doctor": "recsys_plugin.cli.servers:doctor",
    "top": "recsys_plugin.cli.top:top",
    "observability": "recsys_plugin.cli.observability:observability",
    "env": "recsys_plugin.cli.servers:env",
    "security": "recsys_plugin.cli.security:security",
    "stream": "recsys_plugin.cli.stream:stream",
    "check": "recsys_plugin.cli.check:check",
    "recommend": "recsys_plugin.cli.ask:recommend",
    "rank": "recsys_plugin.cli.ask:rank",
    "search": "recsys_plugin.cli.ask:search",
    "similar": "recsys_plugin.cli.ask:similar",
    "popular": "recsys_plugin.cli.ask:popular",
    "cross-sell": "recsys_plugin.cli.ask:cross_sell",
    "cross-category": "recsys_plugin.cli.ask:cross_category",
    "similar-users": "recsys_plugin.cli.people:similar_users",
    "community": "recsys_plugin.cli.people:community",
    "users": "recsys_plugin.cli.users:users",
    "privacy": "recsys_plugin.cli.privacy:privacy",
    "ads": "recsys_plugin.cli.ads:ads",
    "explain": "recsys_plugin.cli.explain:explain",
    "evaluate": "recsys_plugin.cli.evaluate:evaluate",
    "events": "recsys_plugin.cli.events:events",
    "bench": "recsys_plugin.cli.bench:bench",
    "chaos": "recsys_plugin.cli.chaos:chaos",
}


def main() -> None:
    """Run the command line; without the ``pipeline`` extra, say how to install it."""
    try:
        from recsys_plugin.cli._group import recsys
    except ModuleNotFoundError as error:
        sys.exit(f"recsys: the command line needs {error.name}: pip install 'recsys-plugin[pipeline]'")
    recsys()
