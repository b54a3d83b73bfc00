"""Each alert rule has made-up series by which it fires. Prometheus' promtool runs them, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recsys_plugin.observability.files import file_text

yaml: Any = pytest.importorskip("yaml")

CASES = Path(__file__).with_name("alert_rules.yml")


def fired(case: Any) -> set[str]:
    """The alerts that a case expects to fire."""
    named = {test["alertname"] for test in case.get("alert_rule_test", ()) if test["exp_alerts"]}
    samples = [sample for test in case.get("promql_expr_test", ()) for sample in test["exp_samples"]]
    return named | {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}


def test_each_alert_fires_in_some_case_and_none_in_a_healthy_shop() -> None:
    healthy, *cases = yaml.safe_load(CASES.read_text())["tests"]
    rules = [rule for group in yaml.safe_load(file_text("alerts.yml"))["groups"] for rule in group["rules"]]
    assert fired(healthy) == set()
    assert {name for case in cases for name in fired(case)} == {rule["alert"] for rule in rules}
    # Every metric of a rule is there in the healthy shop, so that its silence means something.
    series = {re.split(r"[{]", one["series"])[0] for one in healthy["input_series"]}
    named = {name for rule in rules for name in re.findall(r"(?:recsys|nv_inference)_\w+", rule["expr"])}
    assert named == series


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: Debian's package prometheus")
def test_prometheus_fires_them() -> None:
    for command in (["check", "rules", "recsys_plugin/observability/files/alerts.yml"], ["test", "rules", str(CASES)]):
        done = subprocess.run(
            ["promtool", *command], cwd=CASES.parents[2], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
