"""Benchmarks: how fast a request is, against the usual way to do it and against what the servers alone take.

Every benchmark measures its subjects in turn (:mod:`recsys_plugin.bench.timing`), checks first that they give the
same answers, and writes one form of report (:mod:`recsys_plugin.bench.report`).
"""

from __future__ import annotations

__all__: list[str] = []
