"""The learned part of the feature contract: vocabularies and scales, kept with the weights; graphs take raw values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from recsys_plugin.features.contract import REQUEST_TIMESTAMP, FeatureContract, FeatureSpec, TensorName
from recsys_plugin.training.modalities import ItemModalities, compact_along
from recsys_plugin.training.neighbours import Neighbours, no_neighbours
from recsys_plugin.training.packing import UserTensors

__all__ = [
    "ITEM_NUMBERS",
    "ITEM_NUMBER_GROUPS",
    "ItemInputs",
    "Lists",
    "UserInputs",
    "Vocabulary",
    "item_inputs",
    "unsold_items",
]

_Array = np.ndarray[Any, np.dtype[Any]]
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known values of one text feature; code 0 is everything else, the empty text included."""

    values: tuple[str, ...]

    @classmethod
    def of(cls, column: _Array, *, at_least: int = 5, most: int = 2000) -> Vocabulary:
        """The values that occur ``at_least`` times, the ``most`` frequent of them; ties in alphabetical order."""
        counts = pd.Series(column, dtype=object).value_counts()
        counts = counts[(counts >= at_least) & (counts.index != "")]
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
        return cls(tuple(str(value) for value, _ in ordered[:most]))

    def __len__(self) -> int:
        return len(self.values) + 1

    def codes(self, column: _Array) -> _Array:
        """int64 codes of a column of texts."""
        return np.maximum(pd.Index(self.values, dtype=object).get_indexer(pd.Index(column, dtype=object)) + 1, 0)


@dataclass(frozen=True, slots=True)
class Lists:
    """The list features of B users as tensors; rows are -1 where there is nothing."""

    recent_rows: Tensor  # int64 [B, R]
    recent_types: Tensor  # int64 [B, R]
    recent_ages: Tensor  # float32 [B, R], days
    favourite_rows: Tensor  # int64 [B, F]
    favourite_weights: Tensor  # float32 [B, F]


class UserInputs(nn.Module):
    """Packed raw tensors → a dense vector and the lists, following the contract's slots.

    Numbers become ``log1p`` and are scaled; times become ages in days, ``log1p``, scaled, with a flag for "never";
    texts arrive as vocabulary codes (the exported graph looks them up itself) and become embeddings.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary], width: int = 8) -> None:
        super().__init__()
        self.contract = contract
        self.vocabularies = dict(vocabularies)
        scalars = [spec for spec in contract.features if not spec.is_list and not spec.from_request]
        self.numbers = [s for s in scalars if s.tensor != TensorName.STRING and s.element != "UNIX_TIMESTAMP"]
        self.times = [s for s in scalars if s.element == "UNIX_TIMESTAMP"]
        self.texts = [s for s in scalars if s.tensor == TensorName.STRING]
        self.embeddings = nn.ModuleList(
            nn.Embedding(len(self.vocabularies[spec.reference]), width) for spec in self.texts
        )
        count = len(self.numbers) + len(self.times)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.own_text = next(spec for spec in contract.features if spec.reference == "user_text:vector")
        self.width = count + len(self.times) + width * len(self.texts) + self.own_text.width

    @classmethod
    def fit(cls, contract: FeatureContract, users: UserTensors) -> UserInputs:
        """Learn vocabularies and scales from training users."""
        vocabularies = {}
        for spec in contract.features:
            if spec.tensor == TensorName.STRING and not spec.is_list:
                column = users.user_string[:, contract.slots[spec.reference].offset]
                vocabularies[spec.reference] = Vocabulary.of(column)
        inputs = cls(contract, vocabularies)
        raw, _ = inputs._raw(torch.from_numpy(users.user_float), torch.from_numpy(users.user_int))
        inputs.mean.copy_(raw.mean(0))
        inputs.scale.copy_(raw.std(0, unbiased=False).clamp(min=1e-3))
        return inputs

    def codes(self, user_string: _Array) -> _Array:
        """Vocabulary codes int64 [B, texts] of a packed ``user_string``."""
        columns = [
            self.vocabularies[spec.reference].codes(user_string[:, self.contract.slots[spec.reference].offset])
            for spec in self.texts
        ]
        return np.stack(columns, axis=1).astype(np.int64)

    def _column(self, spec: FeatureSpec, user_float: Tensor, user_int: Tensor) -> Tensor:
        slot = self.contract.slots[spec.reference]
        source = user_float if slot.tensor == TensorName.FLOAT else user_int
        return source[:, slot.offset : slot.offset + slot.width]

    def _raw(self, user_float: Tensor, user_int: Tensor) -> tuple[Tensor, Tensor]:
        now = self._now(user_int)
        columns = [self._column(spec, user_float, user_int).float() for spec in self.numbers]
        values = [torch.sign(column) * torch.log1p(column.abs()) for column in columns]
        never = []
        for spec in self.times:
            moment = self._column(spec, user_float, user_int)
            age = ((now - moment).float() / _DAY).clamp(min=0.0)
            absent = (moment <= 0).float()
            values.append(torch.log1p(age) * (1.0 - absent))
            never.append(absent)
        return torch.cat(values, dim=1), torch.cat(never, dim=1)

    def _now(self, user_int: Tensor) -> Tensor:
        slot = self.contract.slots[REQUEST_TIMESTAMP]
        return user_int[:, slot.offset : slot.offset + 1]

    def forward(self, user_float: Tensor, user_int: Tensor, user_codes: Tensor) -> tuple[Tensor, Lists]:
        """Dense float32 [B, width] and the lists."""
        raw, never = self._raw(user_float, user_int)
        texts = [embed(user_codes[:, index]) for index, embed in enumerate(self.embeddings)]
        # Absent texts are told apart by their count, which is among the numbers.
        own_text = self._column(self.own_text, user_float, user_int)
        dense = torch.cat([((raw - self.mean) / self.scale).clamp(-5.0, 5.0), never, *texts, own_text], dim=1)
        by_name = {
            spec.reference: self._column(spec, user_float, user_int) for spec in self.contract.features if spec.is_list
        }
        moments = by_name["user_recent_items:timestamps"]
        ages = ((self._now(user_int) - moments).float() / _DAY).clamp(min=0.0)
        lists = Lists(
            recent_rows=by_name["user_recent_items:item_ids"],
            recent_types=by_name["user_recent_items:event_type_codes"].clamp(0, 5),
            recent_ages=ages,
            favourite_rows=by_name["user_statistics:favourite_items"],
            favourite_weights=by_name["user_statistics:favourite_weights"],
        )
        return dense, lists


@dataclass(frozen=True, slots=True)
class ItemInputs:
    """What is known of the N catalogue items, ready for the models.

    Attributes:
        modalities: vectors of texts by source and of images, with their masks.
        codes: int64 [N, 3], vocabulary codes of category, subcategory and brand.
        numbers: float32 [N, numbers], scaled statistics, forecast demand and price, with a flag for an unknown price.
        neighbours: what is bought by those who bought each item, by the purchases before the snapshot.
    """

    modalities: ItemModalities
    codes: _Array
    numbers: _Array
    neighbours: Neighbours


_TEXTS = ("item_catalogue__category", "item_catalogue__subcategory", "item_catalogue__brand")
_COUNTS = (
    "item_statistics__purchases_7d", "item_statistics__purchases_30d", "item_statistics__purchases_90d",
    "item_statistics__buyers_30d", "item_statistics__buyers_90d", "item_statistics__returns_90d",
    "item_statistics__lifetime_purchases",
)  # fmt: skip
_TIMES = ("item_statistics__first_sold_at", "item_statistics__last_sold_at")
_SHARES = ("item_statistics__buyers_30d", "item_statistics__purchases_7d")
_FORECAST = "item_demand_forecast__purchases_next_7d"
_CATEGORY_FORECAST = "item_demand_forecast__category_purchases_next_7d"
#: Of the forecast demand: how much, against the last month, of the whole shop's, and of the item's category.
_FORECASTS = 4
_STATISTICS = len(_COUNTS) + 2 * len(_TIMES) + len(_SHARES)
#: How many numbers the models know of an item; the last two are its price, ``log1p``, and whether that is unknown.
ITEM_NUMBERS = _STATISTICS + _FORECASTS + 2
#: Which of these numbers tell of what.
ITEM_NUMBER_GROUPS = {
    "statistics and price": (*range(_STATISTICS), ITEM_NUMBERS - 2, ITEM_NUMBERS - 1),
    "demand forecast": tuple(range(_STATISTICS, _STATISTICS + _FORECASTS)),
}


def item_inputs(
    frame: pd.DataFrame,
    modalities: ItemModalities,
    vocabularies: Mapping[str, Vocabulary] | None = None,
    *,
    neighbours: Neighbours | None = None,
) -> tuple[ItemInputs, dict[str, Vocabulary]]:
    """Encode a snapshot frame of :data:`~recsys_plugin.pipeline.feast_repository.SNAPSHOT_SERVICE`.

    Args:
        frame: one row per catalogue item, in row order, with ``event_timestamp``.
        modalities: of the same items, in the same order. neighbours: likewise; None if there are none.
        vocabularies: of an earlier snapshot; learned from this one if None.
    """
    texts = {name: frame[name].fillna("").to_numpy(object) for name in _TEXTS}
    if vocabularies is None:
        vocabularies = {name: Vocabulary.of(column, at_least=2) for name, column in texts.items()}
    codes = np.stack([vocabularies[name].codes(column) for name, column in texts.items()], axis=1)
    moment = frame["event_timestamp"]
    columns = [np.log1p(frame[name].fillna(0.0).to_numpy(np.float64)) / 3.0 for name in _COUNTS]
    for name in _TIMES:
        days = (moment - frame[name]).dt.total_seconds().to_numpy(np.float64) / _DAY
        columns += [
            np.log1p(np.clip(np.nan_to_num(days, nan=0.0), 0, None)) / 3.0,
            np.isnan(days).astype(float),
        ]
    for name in _SHARES:
        sold = frame[name].fillna(0.0).to_numpy(np.float64)
        # In thousandths of all sales, since the shop itself grows and shrinks with the seasons.
        columns.append(np.log1p(1000.0 * sold / max(sold.sum(), 1.0)))
    columns += _forecast_columns(frame)
    price = frame["item_catalogue__price"].to_numpy(np.float64)
    columns += [np.log1p(np.nan_to_num(price, nan=0.0)), np.isnan(price).astype(float)]
    numbers = np.stack(columns, axis=1).astype(np.float32)
    found = neighbours or no_neighbours(len(frame))
    return ItemInputs(modalities, codes.astype(np.int64), numbers, found), dict(vocabularies)


def _forecast_columns(frame: pd.DataFrame) -> list[_Array]:
    """What the forecasts say of each item, float64 [N] each; an item without a forecast is expected not to sell."""
    expected, category = (frame[name].fillna(0.0).to_numpy(np.float64) for name in (_FORECAST, _CATEGORY_FORECAST))
    month = frame["item_statistics__purchases_30d"].fillna(0.0).to_numpy(np.float64)
    return [
        np.log1p(expected) / 3.0,
        np.log1p(expected) - np.log1p(month * 7.0 / 30.0),
        np.log1p(1000.0 * expected / max(expected.sum(), 1.0)),
        np.log1p(category) / 3.0,
    ]


def unsold_items(
    vectors: _Array,
    has_text: _Array,
    texts: _Array,
    prices: _Array,
    modalities: ItemModalities,
    vocabularies: Mapping[str, Vocabulary],
) -> ItemInputs:
    """What is known of n items that are not in the catalogue: a title, three texts and a price; no image and no sale.

    Args:
        vectors: float32 [n, D], unit vectors of their titles. has_text: bool [n], whether they have one.
        texts: object [n, 3] of ``str``: category, subcategory, brand; empty where unknown.
        prices: float [n], NaN where unknown.
        modalities: of the catalogue; a source that it has no text of is no source of the new items either.
        vocabularies: of the item code columns.
    """
    count = len(vectors)
    of_source = np.zeros((count, len(modalities.sources), vectors.shape[1]), np.float32)
    present = np.zeros(of_source.shape[:2], bool)
    if (title := modalities.title) is not None:
        of_source[:, title] = vectors * has_text[:, None]
        present[:, title] = has_text
    known = ItemModalities(
        modalities.sources,
        of_source,
        present,
        np.zeros((count, modalities.images.shape[1]), np.float32),
        np.zeros(count, bool),
        compact_along(of_source, present, modalities.axes),
        modalities.axes,
    )
    never = pd.Series(pd.NaT, index=range(count)).dt.tz_localize("UTC")
    frame = pd.DataFrame(
        {
            "event_timestamp": never,
            **dict(zip(_TEXTS, texts.T, strict=True)),
            **dict.fromkeys((*_COUNTS, _FORECAST, _CATEGORY_FORECAST), np.nan),
            **dict.fromkeys(_TIMES, never),
            "item_catalogue__price": np.asarray(prices, np.float64),
        }
    )
    return item_inputs(frame, known, vocabularies)[0]
