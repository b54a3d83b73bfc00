"""The report as a browser would parse it: every figure there, nothing from elsewhere, everything escaped."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import Shop

from recsys_plugin.cli.report import report as report_command
from recsys_plugin.errors import ConfigurationError, StepFailed
from recsys_plugin.report.document import training_document
from recsys_plugin.report.figures import (
    curve_figure,
    histogram_figure,
    importance_figure,
    reliability_figure,
    segment_figure,
)
from recsys_plugin.report.html import render_report
from recsys_plugin.report.tables import comparison_table, ctr_table, number, segment_table

EVIL = '<script>alert("x")</script> & $y$'


class Page(HTMLParser):
    """What a page holds, and whether its elements are closed as they were opened."""

    _VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href"):
                self.links.append(str(value))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self._VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open and self._open[-1] != "style":
            self.texts.append(data.strip())
            if self._open[-1] == "h2":
                self.headings.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def system(recall: float, *, segments: bool = True) -> dict[str, Any]:
    whole = {"recall@20": recall, "ndcg@20": recall / 2, "users": 1683}
    parts = {
        name: {"recall@20": recall / count, "ndcg@20": recall / 3, "users": 100 * count, "purchases": 1000}
        for count, name in enumerate(("users, 0-1 earlier baskets", "head items", "tail items"), start=1)
    }
    return {**whole, "new_items": {**whole, "recall@20": recall / 4}, **({"segments": parts} if segments else {})}


def judged(area: float) -> dict[str, Any]:
    heads = {
        head: {
            "auc": area, "gauc": 0.6, "log_loss": 0.1234, "ece": 0.0021, "examples": 1000,
            "reliability": {"predicted": [0.001, 0.1], "observed": [0.002, 0.09], "mass": [0.5, 0.5]},
        }
        for head in ("click", "purchase")
    }  # fmt: skip
    return {"heads": heads, "recall@20": 0.3, "ndcg@20": 0.29, "ndcg@20 standard error": None}


def member(area: float, **more: Any) -> dict[str, Any]:
    return {
        "test": judged(area),
        "validation": judged(area - 0.01),
        "parameters": 20_123,
        "training_seconds": 12.5,
        **more,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    """A run with everything that a report can show; names are hostile."""
    split = {
        "from": "2011-11-01T00:00:00+00:00",
        "baselines": {"popularity": system(0.1257), f"kNN {EVIL}": system(0.1884)},
        "models": {
            "two-tower": system(0.2152),
            "two-tower + split_mlp": system(0.3396),
            "candidate recall@500": 0.7101,
        },
    }
    drop = {"ndcg@20": {"mean": 0.05, "deviation": 0.01}, "auc": {"mean": 0.02, "deviation": 0.001}}
    return {
        "report": {
            "dataset": EVIL,
            "protocol": f"one ranking per user {EVIL}",
            "labels": "constructed: what was not bought counts as a negative",
            "validation": split,
            "test": split,
            "importance": {
                "note": "300 users",
                "groups": {"user features": {EVIL: drop, "view:age": drop}, "item features": {"texts": drop}},
                "probabilities": {"head": "purchase", "edges": [0.0, 0.5, 1.0], "counts": [99, 1]},
            },
            "ctr_models": {
                "labels": "constructed",
                "calibration": "Platt scaling",
                "models": {"split_mlp": member(0.81), EVIL: member(0.7, validation_loss=[0.5, 0.4])},
            },
            "fine_tuning": {"mode": "lora", "parameters": 22_713_216, "training_loss": [1.5, 1.25]},
            "run": {
                "made": "2026-11-24T12:00:00+00:00",
                "options": {"encoder": EVIL, "two_tower": {"steps": 900}},
                "versions": {"torch": "2.13.0"},
                "machine": {"cpu": EVIL, "gpus": []},
            },
        },
        "curves": {
            "two-tower/loss": [(1, 5.0), (10, math.nan), (20, 4.0)],
            "ranker/validation recall@20": [(1, 0.3), (2, 0.31)],
            EVIL: [(1, 1.0)],
        },
        "parts": {"two_tower": {"loss": 4.0, "seconds": 12.5}, EVIL: {"what": EVIL, "seconds": 1.0}},
    }


def test_everything_is_shown_and_nothing_comes_from_elsewhere(document: dict[str, Any]) -> None:
    text = render_report(document)
    page = Page(text)
    assert page.headings == [
        "Models beside baselines", "Segments of the test period", "Curves", "Calibration", "Feature importance",
        "CTR models", "Text encoder", "The run", "How to read this",
    ]  # fmt: skip
    assert "script" not in page.tags
    assert not {"img", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "url(http" not in text
    assert "@import" not in text
    assert page.tags.count("svg") == 11
    for figure in (
        "0.3396",
        "0.1884",
        "0.7101",
        "0.0849",
        "0.1698",
        "0.1234",
        "22,713,216",
        "1.5000, 1.2500",
        "900",
        "20,123",
    ):
        assert figure in page.text, figure
    assert "Labels are constructed." in page.text
    assert "best on the validation period" in page.text


def test_every_text_of_the_data_is_escaped(document: dict[str, Any]) -> None:
    text = render_report(document)
    assert "<script" not in text
    # Seen as written, in tables, headings and figures alike.
    assert Page(text).text.count(EVIL) >= 10


def test_our_model_and_the_best_of_each_column_stand_out(document: dict[str, Any]) -> None:
    table = comparison_table(document["report"], "two-tower + split_mlp")
    assert table is not None
    assert [row.name for row in table.rows if row.strong] == ["two-tower + split_mlp"]
    assert [row.group for row in table.rows] == ["baselines", "baselines", "models", "models"]
    assert all(cell.best == row.strong for row in table.rows for cell in row.cells)
    assert table.rows[0].cells[0].share == pytest.approx(0.1257 / 0.3396)
    assert table.spans == [
        ("Test, all items", 2),
        ("Test, items new to the user", 2),
        ("Validation, all items", 2),
        ("Validation, items new to the user", 2),
    ]
    segments = segment_table(document["report"]["test"], "recall@20", "two-tower")
    assert segments is not None
    assert segments.columns[1] == ("200 users", "head items")
    models = ctr_table(document["report"]["ctr_models"]["models"], "test")
    assert models is not None
    assert models.rows[0].name == "split_mlp · click"
    assert models.rows[0].cells[0].best
    assert not models.rows[-1].cells[0].best


def test_what_is_missing_is_left_out(document: dict[str, Any]) -> None:
    whole = document["report"]
    bare = Page(render_report({"report": {}}))
    assert bare.headings == ["Models beside baselines", "The run", "How to read this"]
    assert "nobody to rank for" in bare.text
    assert "Nothing is recorded" in bare.text
    assert "svg" not in bare.tags
    for key in ("test", "ctr_models", "run"):
        less = {name: value for name, value in whole.items() if name not in (key, "importance")}
        Page(render_report({"report": less}))
    empty_test = {"from": "2011-11-01", "baselines": {}, "models": {}}
    page = Page(render_report({"report": {**whole, "test": empty_test, "importance": {}, "ctr_models": {}}}))
    assert "Segments of the test period" not in page.headings
    assert "Models beside baselines" in page.headings
    old = {**whole["test"], "models": {"two-tower": {"recall@20": 0.2, "ndcg@20": 0.1, "users": 3}}, "baselines": {}}
    assert "0.2000" in Page(render_report({"report": {"test": old}})).text


def test_figures_that_are_not_finite_are_dashes(document: dict[str, Any]) -> None:
    for missing in (math.nan, None):
        told = json.loads(json.dumps(system(math.nan)).replace("NaN", "null" if missing is None else "NaN"))
        document["report"]["test"]["models"] = {"two-tower": told, "candidate recall@500": missing}
        page = Page(render_report({"report": document["report"] | {"importance": {}, "ctr_models": {}}}))
        assert "nan" not in page.text.lower()
        assert "none" not in page.text.lower()
        assert "–" in page.text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "–"), ("", "–"), (True, "yes"), (7, "7"), (1_234_567, "1,234,567"),
        (0.12345, "0.1235"), (0.0, "0.0000"), (0.000012, "1.2e-05"), (41.2, "41.200"), (1200.0, "1,200"),
        (1234.56, "1,234.6"), ([0.5, 1], "0.5000, 1"), ([], "–"), ("two", "two"),
    ],
)  # fmt: skip
def test_numbers_for_people(value: Any, said: str) -> None:
    assert number(value) == said


FIGURES = {
    "curve": curve_figure({EVIL: [(1, 1.0), (2, math.nan), (3, 2.0)], "b": [(1, 2.0)]}, across="step", up=EVIL),
    "epochs": curve_figure({"a": [(1, 0.3), (2, 0.4)]}, across="epoch", up="recall", whole=True),
    "rare": reliability_figure({EVIL: {"predicted": [0.0001, 0.2], "observed": [0.0, 0.3]}}, what="click"),
    "common": reliability_figure({"a": {"predicted": [0.3, 0.5], "observed": [0.25, 0.55]}}, what="purchase"),
    "histogram": histogram_figure([0.0, 0.5, 1.0], [1000, 1], across=EVIL),
    "empty histogram": histogram_figure([0.0, 1.0], [0], across="p"),
    "importance": importance_figure([(EVIL, 0.1, 0.01), ("b", -0.01, 0.0)], across="drop"),
    "segments": segment_figure(["a", EVIL], {"one": [0.1, math.nan], "two": [0.2, 0.3]}, across="Recall@20"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_well_formed_and_say_what_they_show(name: str) -> None:
    root = ElementTree.fromstring(FIGURES[name])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("width") is None
    assert len((root.get("viewBox") or "").split()) == 4
    texts = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(texts)
    assert not [text for text in texts if "mathdefault" in text]
    assert "DejaVu" not in FIGURES[name]


def test_a_figure_is_the_same_twice_and_its_parts_are_named_apart() -> None:
    one, again, other = (
        curve_figure({name: [(1, 1.0), (2, 2.0)]}, across="step", up="loss") for name in ("a", "a", "b")
    )
    assert one == again
    ids = [set(re.findall(r'id="((?:p|m|h)[0-9a-f]{8,})"', figure)) for figure in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=5)),
        max_size=4,
    )
)
def test_any_options_make_a_page(options: dict[str, Any]) -> None:
    Page(render_report({"report": {"run": {"options": options}, "fine_tuning": options}}))


def test_nothing_trained_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="recsys train"):
        training_document(tmp_path)
    (tmp_path / "training").mkdir()
    for broken in ("{", "[]"):
        (tmp_path / "training" / "report.json").write_text(broken, encoding="utf-8")
        with pytest.raises(StepFailed, match=r"report\.json.*--force"):
            training_document(tmp_path)


def test_the_command_writes_the_report(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = tmp_path / ".recsys" / "training"
    (training / "two_tower").mkdir(parents=True)
    few = {name: document["report"][name] for name in ("dataset", "run")}
    (training / "report.json").write_text(json.dumps(few), encoding="utf-8")
    (training / "two_tower" / "curves.jsonl").write_text(
        '{"name": "two-tower/loss", "step": 1, "value": 2.5}\n{"name": "two-tower/loss", "step": 2, "value": null}\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    done = CliRunner().invoke(report_command, ["--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["report"] == str(training / "report.html")
    assert "Curves" in Page((training / "report.html").read_text(encoding="utf-8")).headings
    other = tmp_path / "elsewhere.html"
    assert CliRunner().invoke(report_command, ["--output", str(other)]).exit_code == 0
    assert other.read_bytes() == (training / "report.html").read_bytes()


def test_a_training_run_leaves_its_report(small_shop: Shop) -> None:
    state = small_shop.settings.state
    page = Page((state / "training" / "report.html").read_text(encoding="utf-8"))
    assert {"Models beside baselines", "Segments of the test period", "Curves", "Calibration", "CTR models"} <= set(
        page.headings
    )
    found = json.loads((state / "training" / "report.json").read_text(encoding="utf-8"))
    shown = number(found["test"]["models"]["two-tower + split_mlp"]["recall@20"])
    assert shown in page.text
    importance = found["importance"]
    assert 0 < importance["users"] <= 200
    views = importance["groups"]["user views"]
    assert {"user_statistics", "user_recent_items", "user_profile"} <= set(views)
    assert all(math.isfinite(group["ndcg@20"]["mean"]) for group in views.values())
    assert sum(importance["probabilities"]["counts"]) == importance["users"] * min(
        500, len(np.load(state / "training" / "text" / "items.npy", allow_pickle=False))
    )
