"""The step behind ``recsys forecast``, which ``recsys apply`` takes too: the forecast tables as of a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from recsys_plugin.data.store import Dataset, load_dataset
from recsys_plugin.pipeline.feature_tables import FORECAST_TABLES
from recsys_plugin.pipeline.workspace import Step, StepResult, Workspace
from recsys_plugin.settings import Settings

__all__ = ["forecast", "make_forecasts"]

#: Told what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]


def forecast(
    settings: Settings, progress: Progress, *, as_of: datetime | None = None, force: bool = False
) -> StepResult:
    """Make the forecast tables anew as of a moment, the data's own now if None; `recsys materialize` serves them.

    What is trained stays valid: models learn from the weeks of the past, whose rows do not change.

    Raises:
        InvalidInput: if the tables know nothing of that moment.
    """
    from recsys_plugin.forecasting.tables import valid_moment

    dataset = load_dataset(settings)
    settings.require_feature_repo()
    moment = valid_moment(dataset, as_of).to_pydatetime()
    workspace = Workspace(settings.state)
    with workspace.lock():
        return make_forecasts(settings, dataset, workspace, moment, progress, force=force)


def make_forecasts(
    settings: Settings, dataset: Dataset, workspace: Workspace, as_of: datetime, progress: Progress, *, force: bool
) -> StepResult:
    """:func:`forecast` of a data set that is open, in a workspace whose lock is held."""
    folder = settings.feature_repo / "data"

    def action() -> Mapping[str, Any]:
        import pandas as pd

        from recsys_plugin.forecasting.tables import build_forecast_tables

        rows = build_forecast_tables(folder, dataset, as_of=pd.Timestamp(as_of), progress=progress)
        return {"as_of": as_of.isoformat(), "rows": rows}

    step = Step(
        "forecast_tables",
        inputs={"data": dict(dataset.sha256), "as_of": as_of.isoformat()},
        outputs=[folder / f"{name}.parquet" for name in FORECAST_TABLES],
        sources=("forecasting", "aggregation/arrays", "pipeline/feature_tables"),
    )
    return workspace.run(step, action, force=force)
