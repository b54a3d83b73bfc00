"""``recsys recommend`` and its like: one question to the serving client, answered as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import emit_json, json_option
from recsys_plugin.client import Page, Recommender
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.query.intent import SearchIntent
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings, parse_moment

__all__ = [
    "cross_category",
    "cross_sell",
    "open_recommender",
    "page_table",
    "popular",
    "print_page",
    "rank",
    "recommend",
    "request_moment",
    "search",
    "similar",
]

_Command = Callable[..., None]


def request_moment(settings: Settings) -> datetime | None:
    """The moment that requests are asked at: ``RECSYS_AS_OF``, else the end of historical data, else ``None`` for now.

    Against today's clock every feature of a historical data set would be expired.

    Raises:
        ConfigurationError: if ``dataset.json`` is malformed.
    """
    if settings.as_of is not None:
        return settings.as_of
    description = settings.tables / "dataset.json"
    if not description.exists():
        return None
    try:
        dataset = json.loads(description.read_text(encoding="utf-8"))
        historical, as_of = dataset["historical"], dataset["as_of"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{description} is malformed ({error!r}); run `recsys data` again") from error
    return parse_moment(as_of, name=f"{description}: as_of") if historical else None


def open_recommender(settings: Settings, *, timeout: float = 10.0, strict: bool = False) -> Recommender:
    """A client of this home's servers, asking at :func:`request_moment`; the caller closes it.

    Raises:
        ConfigurationError, FeatureContractError, ServiceUnavailable: see :class:`Recommender`.
    """
    services = Services(settings)
    moment = request_moment(settings)
    options: dict[str, Any] = {
        "timeout": timeout,
        "pseudonym_key": settings.pseudonym_key,
        "strict": strict,
        "snapshot": settings.snapshot,
    }
    if moment is not None:
        seconds = moment.timestamp()
        options["clock"] = lambda: seconds
    return Recommender(services.redis_url, services.triton_url, **options)


def page_table(page: Page, *, title: str) -> Table:
    """A page as a table for people; columns that hold nothing are left out."""
    table = Table(title=title, title_justify="left")
    columns: dict[str, list[str]] = {
        "title": [escape(item.title) for item in page],
        "category": [escape(item.category) for item in page],
        "item": [escape(item.item_id) for item in page],
        "price": [_figure(item.price, ".2f") for item in page],
        "score": [_figure(item.score, ".4f") for item in page],
        "P(purchase)": [_figure(item.purchase_probability, ".4f") for item in page],
        "P(cart)": [_figure(item.cart_probability, ".4f") for item in page],
        "P(click)": [_figure(item.click_probability, ".4f") for item in page],
    }
    if columns["P(purchase)"] == columns["score"]:
        del columns["P(purchase)"]  # the score is the probability, and says so by itself
        columns = {("P(purchase)" if name == "score" else name): cells for name, cells in columns.items()}
    shown = {name: cells for name, cells in columns.items() if name == "title" or any(cells)}
    table.add_column("#", justify="right")
    for name in shown:
        words = name in ("title", "category", "item")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for position, cells in enumerate(zip(*shown.values(), strict=True)):
        table.add_row(str(page[position].position), *cells)
    return table


def print_page(page: Page, *, title: str) -> None:
    """Print a page on standard output: the table, then what served it and how long it took."""
    out = Console()
    out.print(page_table(page, title=title))
    out.print(_footer(page), style="dim", markup=False, highlight=False, soft_wrap=True)


def _footer(page: Page) -> str:
    served = page.served_by
    lines = [
        f"model {served.model} version {served.version}, catalogue version {served.catalogue_version} "
        f"({served.catalogue_size} items)" + (f", contract {served.contract[:12]}" if served.contract else "")
    ]
    if page.features is not None:
        report = page.features
        known = "known user" if report.known else "unknown user, served from defaults"
        lines.append(
            f"{known}: {report.present} of {report.total} features present, "
            f"{len(report.missing)} missing, {len(report.expired)} expired"
        )
    if page.segments:
        lines.append("popular with " + ", ".join(f"{name} {value}" for name, value in page.segments))
    if page.fallback.reason:
        lines.append(f"level {page.fallback.level}: {page.fallback.reason}")
    if page.unknown_items:
        lines.append(f"not in the catalogue: {', '.join(page.unknown_items)}")
    if page.intent is not None:
        lines += _understood(page.intent, page.relaxed)
    spent = page.timings
    lines.append(
        f"{spent.total:.1f} ms: features {spent.features:.1f}, inference {spent.inference:.1f}, "
        f"policy {spent.policy:.1f}; request {page.request_id}"
    )
    return "\n".join(lines)


def _understood(intent: SearchIntent, relaxed: tuple[str, ...]) -> list[str]:
    """What a query was understood to say, beyond its words; nothing if it says no more."""
    lines = [f"“{one.typed}” is not known here; looked for “{one.taken}”" for one in intent.corrections]
    category = "only the category" if intent.category_only else "category"
    bounds = (("price at least", intent.lowest_price), ("price at most", intent.highest_price))
    read = {
        **{name: f"{bound:g}" for name, bound in bounds if bound is not None},
        "price": intent.price_level or "",
        category: ", ".join(intent.categories),
        "only the brand": ", ".join(intent.brands),
        "colour": ", ".join(intent.colours),
        "size": ", ".join(map(str, intent.sizes)),
        "for": intent.recipient or "",
        "without": ", ".join(intent.excluded),
    }
    if said := "; ".join(f"{name} {value}" for name, value in read.items() if value):
        lines.append(f"understood: {said}")
    if relaxed:
        lines.append(f"nothing fits all of that, so this was given up: {', '.join(relaxed)}")
    return lines


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _answer(ask: Callable[[Recommender], Page], *, title: str, as_json: bool, timeout: float) -> None:
    with open_recommender(Settings.from_environment(), timeout=timeout) as recommender:
        page = ask(recommender)
    if as_json:
        emit_json(page.to_dict())
    else:
        print_page(page, title=title)


def _options(*, several: bool) -> Callable[[_Command], _Command]:
    """``--json`` and ``--timeout`` for every command; ``--k`` and ``--exclude`` where the catalogue is searched."""
    options: list[Callable[[Any], Any]] = [
        json_option,
        click.option("--timeout", default=2.0, show_default=True, help="Seconds that the call may take."),
    ]
    if several:
        options += [
            click.option("--k", "-k", default=20, show_default=True, help="How many items."),
            click.option("--exclude", multiple=True, metavar="ITEM", help="Leave this item out; may be repeated."),
        ]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _said(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, given any number of times."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, said = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, such as country=DE", context, parameter)
        found[name] = said
    return found


_segment_option = click.option(
    "--segment",
    metavar="NAME=VALUE",
    callback=_said,
    multiple=True,
    help="What is known of the user: country=DE, gender=…, age_group=…, income_group=…, household=…, segment=….",
)


@click.command()
@click.argument("user_id", metavar="USER")
@_segment_option
@_options(several=True)
def recommend(
    user_id: str, segment: dict[str, str], k: int, exclude: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """The items that USER is most likely to want; of a USER who is not known, with what his segment buys first."""
    _answer(
        lambda recommender: recommender.recommend(user_id, k, exclude=exclude, segment=segment),
        title=f"For user {escape(user_id)}",
        as_json=as_json,
        timeout=timeout,
    )


@click.command()
@_segment_option
@click.option("--category", help="Items of this category only.")
@_options(several=True)
def popular(
    segment: dict[str, str],
    category: str | None,
    k: int,
    exclude: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """What is popular, with everybody or with a segment of the users.

    \b
    Examples:
      recsys popular -k 10
      recsys popular --segment age_group=25-34 --category GROCERY --json
    """
    _answer(
        lambda recommender: recommender.popular(k, segment=segment, category=category, exclude=exclude),
        title="Popular" + "".join(f", {name} {escape(value)}" for name, value in segment.items()),
        as_json=as_json,
        timeout=timeout,
    )


@click.command()
@click.argument("user_id", metavar="USER")
@click.argument("item_ids", metavar="ITEM...", nargs=-1, required=True)
@_options(several=False)
def rank(user_id: str, item_ids: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """The given items, best first for USER."""
    _answer(
        lambda recommender: recommender.rank(user_id, item_ids),
        title=f"Ranked for user {escape(user_id)}",
        as_json=as_json,
        timeout=timeout,
    )


@click.command()
@click.argument("user_id", metavar="USER")
@click.argument("query")
@click.option("--plain", is_flag=True, help="Look for the meaning of QUERY as it is: no words, no filters.")
@_options(several=True)
def search(
    user_id: str, query: str, plain: bool, k: int, exclude: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """Items that fit QUERY, a sentence in natural language, with a touch of USER's taste ("-" is nobody).

    Bounds of the price, brands and what is not wanted are filters, and misspelt words are corrected; below the page it
    says what was understood.

    \b
    Examples:
      recsys search - "red wine under 10 dollars"
      recsys search 2020 "granola bars without nuts" --k 5 --json
    """
    user = None if user_id == "-" else user_id
    _answer(
        lambda recommender: recommender.search(user, query, k, exclude=exclude, understand=not plain),
        title=f"“{escape(query)}”" + (f" for user {escape(user_id)}" if user else ""),
        as_json=as_json,
        timeout=timeout,
    )


@click.command()
@click.argument("item_id", metavar="ITEM")
@_options(several=True)
def similar(item_id: str, k: int, exclude: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """The items nearest to ITEM."""
    _answer(
        lambda recommender: recommender.similar_items(item_id, k, exclude=exclude),
        title=f"Like item {escape(item_id)}",
        as_json=as_json,
        timeout=timeout,
    )


@click.command()
@click.argument("basket", metavar="[ITEM]...", nargs=-1)
@_options(several=True)
def cross_sell(basket: tuple[str, ...], k: int, exclude: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """What is bought together with the ITEMs of a basket; what is popular if there are none.

    \b
    Examples:
      recsys cross-sell 1133018 1082185
      recsys cross-sell 1133018 -k 5 --exclude 1029743 --json
    """
    _answer(
        lambda recommender: recommender.cross_sell(basket, k, exclude=exclude),
        title=f"Goes with {escape(', '.join(basket)) or 'any basket'}",
        as_json=as_json,
        timeout=timeout,
    )


@click.command()
@click.argument("user_id", metavar="USER")
@click.option("--per-category", default=2, show_default=True, help="Items of one category, at most.")
@_options(several=True)
def cross_category(
    user_id: str, per_category: int, k: int, exclude: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """Items of categories that are new to USER.

    \b
    Examples:
      recsys cross-category 2020
      recsys cross-category 2020 -k 6 --per-category 1 --json
    """
    _answer(
        lambda recommender: recommender.cross_category(user_id, k, per_category=per_category, exclude=exclude),
        title=f"Of categories that are new to user {escape(user_id)}",
        as_json=as_json,
        timeout=timeout,
    )
