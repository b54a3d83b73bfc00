"""Tables on disk: replaced as a whole, recognised when current, mended after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result

from recsys_plugin.data.adapters import ADAPTERS, adapter_named
from recsys_plugin.data.prepare import prepare, prepare_data
from recsys_plugin.data.store import load_dataset, locked
from recsys_plugin.errors import ConfigurationError, InvalidInput, StepFailed
from recsys_plugin.settings import Settings

Run = Callable[..., Result]
NOW = datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture
def place(home: Path) -> Settings:
    return Settings(home=home)


def test_without_tables_the_error_says_what_to_run(place: Settings) -> None:
    with pytest.raises(ConfigurationError, match="run `recsys data`"):
        load_dataset(place)


def test_what_was_written_is_loaded(place: Settings, shop: Path) -> None:
    written = prepare_data(place, folder=shop, now=NOW)
    assert load_dataset(place) == written
    assert written.counts == {"users": 2, "items": 2, "events": 3}
    assert written.event_types == {"purchase": 2, "click": 1}
    assert written.table("items", ["title"]).to_pylist() == [{"title": "Red mug"}, {"title": "Blue mug"}]
    assert list(written.frame("events", ["user_id", "timestamp"]).columns) == ["user_id", "timestamp"]
    assert json.loads((place.tables / "dataset.json").read_text()) == written.manifest()
    with pytest.raises(InvalidInput, match="no table 'texts'"):
        written.path("texts")


def test_unchanged_source_is_current_and_a_changed_one_is_not(place: Settings, shop: Path) -> None:
    assert not prepare(place, folder=shop, now=NOW).reused
    assert prepare(place, folder=shop, now=NOW).reused
    assert not prepare(place, folder=shop, now=NOW, force=True).reused
    (shop / "items.csv").write_text((shop / "items.csv").read_text().replace("Red", "Tan"))
    changed = prepare(place, folder=shop, now=NOW)
    assert not changed.reused
    assert changed.dataset.table("items")["title"][0].as_py() == "Tan mug"


def test_damaged_table_is_made_again(place: Settings, shop: Path) -> None:
    items = prepare_data(place, folder=shop, now=NOW).path("items")
    content = items.read_bytes()
    items.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigurationError, match="damaged"):
        load_dataset(place)
    assert not prepare(place, folder=shop, now=NOW).reused
    assert items.read_bytes() == content


def test_kill_between_the_two_renames_loses_nothing(place: Settings, shop: Path) -> None:
    written = prepare_data(place, folder=shop, now=NOW)
    place.tables.rename(place.state / ".tables-previous")
    assert load_dataset(place) == written


def test_leftovers_of_a_killed_run_are_removed(place: Settings, shop: Path) -> None:
    left = place.state / ".tables-unfinished-x"
    left.mkdir(parents=True)
    prepare_data(place, folder=shop, now=NOW)
    assert sorted(path.name for path in place.state.iterdir()) == ["data.lock", "tables"]


def test_second_run_at_the_same_time_is_refused(place: Settings, shop: Path) -> None:
    with locked(place), pytest.raises(StepFailed, match="another `recsys data`"):
        prepare_data(place, folder=shop, now=NOW)


def test_periods_of_a_shop_are_tenths_of_its_time_span(place: Settings, shop: Path) -> None:
    dataset = prepare_data(place, folder=shop, now=NOW)
    assert dataset.first_event == datetime(2024, 3, 1, 10, tzinfo=UTC)
    span = dataset.last_event - dataset.first_event
    assert dataset.test_start == dataset.last_event - span / 10
    assert dataset.validation_start == dataset.test_start - span / 10


def test_periods_may_be_chosen(place: Settings, shop: Path) -> None:
    prepare_data(place, folder=shop, now=NOW)
    day = timedelta(days=1)
    chosen = prepare(place, folder=shop, now=NOW, held_out=day)
    assert not chosen.reused
    assert chosen.dataset.test_start == chosen.dataset.last_event - day
    assert chosen.dataset.validation_start == chosen.dataset.test_start - day
    assert prepare(place, folder=shop, now=NOW, held_out=day).reused
    for wrong, said in ((timedelta(0), "is not above 0"), (30 * day, "leave nothing of .* to learn from")):
        with pytest.raises(InvalidInput, match=said):
            prepare(place, folder=shop, now=NOW, held_out=wrong)


@pytest.mark.parametrize(("age", "historical"), [(timedelta(days=6), False), (timedelta(days=8), True)])
def test_time_stands_still_once_the_last_event_is_a_week_old(
    place: Settings, shop: Path, age: timedelta, historical: bool
) -> None:
    last = datetime(2024, 3, 11, tzinfo=UTC)
    dataset = prepare_data(place, folder=shop, now=last + age)
    assert dataset.historical is historical
    assert dataset.as_of == (last if historical else last + age)


def test_events_at_one_moment_are_noted(place: Settings, shop: Path) -> None:
    (shop / "events.csv").write_text("user_id,item_id,event_type,timestamp\nu1,i1,click,2024-03-01\n")
    dataset = prepare_data(place, folder=shop, now=NOW)
    assert dataset.test_start == dataset.validation_start == dataset.last_event
    assert any("one moment" in note for note in dataset.description.notes)


def test_command_says_what_it_made_and_what_is_next(run: Run, shop: Path) -> None:
    first, second = run("--from", shop), run("--from", shop)
    assert first.exit_code == second.exit_code == 0, first.stderr
    assert "wrote 3 tables" in first.stderr
    assert "are current" in second.stderr
    assert "next: recsys apply" in second.stderr
    assert first.stdout == ""


def test_adapters_are_found_by_name() -> None:
    assert [adapter_named(name).name for name in ADAPTERS] == list(ADAPTERS)
    with pytest.raises(InvalidInput, match="there are complete_journey, online_retail"):
        adapter_named("unheard_of")
