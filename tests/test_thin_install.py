"""The plugin alone: built as a wheel, installed in an empty environment, asking the trained shop for pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

ASK = """
import json, sys
from recsys_plugin import Recommender

with Recommender.from_environment() as recommender:
    page = recommender.recommend(sys.argv[1], k=5, timeout=30.0)
print(json.dumps({
    "items": page.item_ids,
    "known": page.features.known,
    "heavy": sorted({"feast", "torch", "transformers", "pandas", "pyarrow", "click"} & set(sys.modules)),
}))
"""


def test_the_plugin_works_alone(shop: Any, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    # The pins hold for the build as well: a year from now it must install the same.
    pins = ROOT / "scripts" / "requirements" / "pipeline.txt"
    bare = [str(python), "-m", "pip", "--disable-pip-version-check"]
    pip = [*bare, "--quiet"]
    subprocess.run([*pip, "install", "--constraint", str(pins), "setuptools"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)], check=True)
    wheel = next(tmp_path.glob("recsys_plugin-*.whl"))
    subprocess.run([*pip, "install", "--constraint", str(pins), str(wheel)], check=True, stderr=subprocess.DEVNULL)
    installed = subprocess.run([*bare, "list", "--format=json"], check=True, capture_output=True, text=True)
    names = {package["name"].lower() for package in json.loads(installed.stdout)}
    assert not names & {"feast", "torch", "transformers", "pandas"}
    subprocess.run([*pip, "check"], check=True)

    serving = {
        "RECSYS_REDIS_URL": shop.redis_url,
        "RECSYS_TRITON_URL": shop.triton_url,
        "RECSYS_AS_OF": shop.as_of.isoformat(),
    }
    command = [str(python), "-W", "error", "-c", ASK, shop.some_users[0]]
    asked = subprocess.run(command, env=serving, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert len(answer["items"]) == 5
    assert answer["known"] is True
    assert answer["heavy"] == []

    without = subprocess.run(
        [str(environment / "bin" / "recsys"), "status"], capture_output=True, text=True, check=False
    )
    assert without.returncode == 1
    assert "pip install 'recsys-plugin[pipeline]'" in without.stderr
