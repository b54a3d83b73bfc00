"""A request during a trial: the candidate answers its users, and where it does not, the control does."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys_plugin.client.flows import Flow
from recsys_plugin.client.limited import limited
from recsys_plugin.client.release import Release, load_version
from recsys_plugin.client.results import Page
from recsys_plugin.errors import InvalidInput, RecsysError
from recsys_plugin.features.commands import Commands
from recsys_plugin.features.requests import promotion_key
from recsys_plugin.trials.assignment import arm_of
from recsys_plugin.trials.shadow import kendall_tau, overlap
from recsys_plugin.trials.store import look_after, read_trial
from recsys_plugin.trials.tally import Tally
from recsys_plugin.trials.trial import CANDIDATE, CONTROL, Trial

__all__ = ["CANDIDATE_TIME", "Trying", "follow_trial", "serve", "shadow"]

#: Share of the time allowed for a call that the candidate may take; what is left is for the control to step in.
CANDIDATE_TIME = 0.5

#: Given the users that it is for, the request on a release.
Ask = Callable[[Sequence[str]], Callable[[Release], Flow]]


@dataclass(frozen=True, slots=True)
class Trying:
    """The trial that a client takes part in."""

    trial: Trial
    candidate: Release | None
    """``None`` while it could not be loaded: its users are then answered by the control, and that is an error."""
    tally: Tally


def follow_trial(
    project: str, release: Release, before: Trying | None, *, now: float, token: str
) -> Generator[Any, Any, Trying | None]:
    """Write down what was counted, look after the trial, and take up how it stands now: done once a second.

    Args:
        release: the control's. before: what the client took part in until now.
        now: unix seconds. token: names the client.

    Raises:
        MalformedTrial: if the document is none.
        StoreUnavailable, DeadlineExceeded: for Redis; what was counted since the last time is then lost.
    """
    if before is not None and (commands := before.tally.drain()):
        yield Commands(commands)
    trial, _ = yield from read_trial(project)
    if trial is None or not trial.running:
        return None
    looked = yield from look_after(project, promotion_key(project), now=now, token=token)
    trial = looked or trial
    if not trial.running:
        return None
    # A phase has counts of its own.
    same = before is not None and (before.trial.trial_id, before.trial.phase) == (trial.trial_id, trial.phase)
    tally = before.tally if before is not None and same else Tally(project, trial)
    candidate = None if before is None else before.candidate
    if candidate is None or candidate.version != trial.candidate:
        try:
            candidate = yield from load_version(project, trial.candidate, release)
        except RecsysError:
            # Not kept quiet: each request that it should have answered counts as its error, and ends the trial.
            candidate = None
    return Trying(trial, candidate, tally)


def serve(
    trying: Trying,
    users: Sequence[str],
    ask: Ask,
    control: Callable[[Sequence[str]], Flow],
    *,
    timeout: float,
    timer: Callable[[], float],
) -> Flow:
    """A page for each user, in order, each from the arm that the user belongs to.

    Args:
        ask: see :data:`Ask`; it is called for a part of the users, and raises what fails.
        control: answers some users on the release that serves.
        timeout: seconds for the whole. timer: seconds that only run forward.

    Raises:
        RecsysError: what the control raises; what the candidate raises is counted, and the control steps in.
        InvalidInput: from either, since the caller's argument is to blame.
    """
    started = timer()
    arms = [arm_of(trying.trial, user_id) for user_id in users]
    pages: dict[int, Page] = {}
    mine = [number for number, arm in enumerate(arms) if arm == CANDIDATE]
    if mine:
        asked = ask([users[number] for number in mine])
        found = yield from _on_candidate(trying, [users[number] for number in mine], asked, started, timeout, timer)
        pages.update(zip(mine, found, strict=False))
    rest = [number for number in range(len(users)) if number not in pages]
    if rest:
        counted = [users[number] for number in rest if arms[number] == CONTROL]
        began = timer()
        try:
            found = yield from control([users[number] for number in rest])
        except InvalidInput:
            raise
        except RecsysError:
            trying.tally.record(CONTROL, counted, failed=True)
            raise
        seconds = timer() - began if len(users) == 1 else None
        if counted:
            own = [found[place] for place, number in enumerate(rest) if arms[number] == CONTROL]
            # What fails of the candidate is no page of its own, and so the same must count as failed of the control.
            _record_pages(trying, CONTROL, [page for page in own if not page.fallback.degraded], seconds)
            if failed := [page.user_id for page in own if page.fallback.degraded and page.user_id is not None]:
                trying.tally.record(CONTROL, failed, failed=True, seconds=seconds)
        pages.update((number, _marked(page, CONTROL)) for number, page in zip(rest, found, strict=True))
    return [pages[number] for number in range(len(users))]


def shadow(
    trying: Trying, asked: Callable[[Release], Flow], served: Sequence[Page], timeout: float, timer: Any
) -> Flow:
    """Ask the candidate what the control has answered already, and count how it does; nobody waits for it."""
    users = [page.user_id for page in served if page.user_id is not None]
    found = yield from _on_candidate(trying, users, asked, timer(), timeout / CANDIDATE_TIME, timer)
    for control, candidate in zip(served, found, strict=False):
        trying.tally.compare(
            overlap(control.item_ids, candidate.item_ids), kendall_tau(control.item_ids, candidate.item_ids)
        )
    return found


def _on_candidate(
    trying: Trying,
    users: Sequence[str],
    asked: Callable[[Release], Flow],
    started: float,
    timeout: float,
    timer: Callable[[], float],
) -> Flow:
    """The candidate's pages; none if it fails, which is counted."""
    pages: list[Page] = []
    failed = trying.candidate is None
    if trying.candidate is not None:
        try:
            pages = yield from limited(
                asked(trying.candidate),
                started + timeout * CANDIDATE_TIME,
                timer,
                "the candidate's part of the time allowed was used up",
            )
        except InvalidInput:
            raise
        except RecsysError:
            failed = True
    # Also of a call that failed: one that runs out of time was slow for at least so long.
    seconds = timer() - started if len(users) == 1 and trying.candidate is not None else None
    if failed:
        trying.tally.record(CANDIDATE, users, failed=True, seconds=seconds)
    else:
        _record_pages(trying, CANDIDATE, pages, seconds)
    return [_marked(page, CANDIDATE) for page in pages]


def _record_pages(trying: Trying, arm: str, pages: Sequence[Page], seconds: float | None) -> None:
    trying.tally.record(
        arm,
        [page.user_id for page in pages if page.user_id is not None],
        failed=False,
        empty=sum(not page for page in pages),
        seconds=seconds,
        scores=[(page.served_by.model, page[0].score) for page in pages if page],
    )


def _marked(page: Page, arm: str) -> Page:
    return replace(page, served_by=replace(page.served_by, arm=arm))
