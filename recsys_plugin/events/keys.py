"""Where events and what is made of them lie in Redis.

==========================================  ==========================================================================
``recsys:{P}:events:N``                     stream of partition N: every event of the users that belong to it
``recsys:{P}:dead``                         stream of what could not be taken as an event, with the reason
``recsys:{P}:counts``                       hash: how many events had which outcome
``recsys:{P}:owner:N``                      which worker owns partition N, while its lease runs
``recsys:{P}:workers``                      sorted set of workers by the time of their last sign of life
``recsys:{P}:user:ID``                      sorted set of a user's latest acts, by time
``recsys:{P}:seen:ID``                      sorted set of the ids of a user's acts that are no longer kept, by time
``recsys:{P}:item_events:N``                stream of partition N of the items: what users did with them
``recsys:{P}:item:ID``                      hash of an item's counters
``recsys:{P}:impressions``                  stream of pages served
``recsys:{P}:reply:TOKEN``                  list that a caller waits on until his event is visible
``recsys:{P}:trial``                        the trial of a model version, as JSON, and ``:history``, of those that ended
``recsys:{P}:trial:ID:PHASE:ARM``           hash of what was counted in an arm, and with ``:users`` who was in it
``recsys:{P}:trial:ID:looks``               stream of what the guard of a trial saw
``recsys:{P}:forgotten``                    set of the pseudonyms of people who were forgotten; ``:key`` tells the
                                            key that made them
``recsys:{P}:refusals``                     counts how often forgotten or consent changed
``recsys:{P}:consent``                      hash: what users refuse, see :mod:`recsys_plugin.consent.consent`
``recsys:{P}:rules``                        the shop's rules for its pages, as JSON
``recsys:{P}:ads``                          the campaigns, as JSON; ``:revision`` counts their changes
``recsys:{P}:ads:limits``                   hash: budgets of every campaign there ever was, and whether it runs
``recsys:{P}:ads:spent``                    hash: what a campaign spent in all
``recsys:{P}:ads:day:N``                    hash: what a campaign spent, showed and was clicked on day N since 1970
``recsys:{P}:ads:clicks``                   hash: clicks, and clicks expected by the model, of campaigns and creatives
``recsys:{P}:ads:shown:N:ID``               hash: how often a user was shown each campaign on a day
``recsys:{P}:ads:impression:ID``            one ad that was shown, with its price, until its click is too late
==========================================  ==========================================================================

P is the Feast project; the braces keep all of it in one slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

__all__ = ["PARTITIONS", "EventKeys"]

#: Streams that users (and items) are spread over: at most so many workers share the work.
PARTITIONS = 8


@dataclass(frozen=True, slots=True)
class EventKeys:
    """The keys of one project."""

    project: str

    @property
    def prefix(self) -> str:
        """What all keys of the project begin with."""
        return f"recsys:{{{self.project}}}:"

    @staticmethod
    def partition(entity_id: str) -> int:
        """Which partition a user (or item) belongs to: the same on every machine and for ever."""
        return crc32(entity_id.encode()) % PARTITIONS

    def events(self, partition: int) -> str:
        """Stream of the events of one partition."""
        return f"{self.prefix}events:{partition}"

    def item_events(self, partition: int) -> str:
        """Stream of what users did with the items of one partition."""
        return f"{self.prefix}item_events:{partition}"

    def owner(self, partition: int) -> str:
        """Lease of one partition."""
        return f"{self.prefix}owner:{partition}"

    def user(self, user_id: str) -> str:
        """A user's latest acts."""
        return f"{self.prefix}user:{user_id}"

    def seen(self, user_id: str) -> str:
        """Ids of a user's acts that count and are no longer kept."""
        return f"{self.prefix}seen:{user_id}"

    def item(self, item_id: str) -> str:
        """An item's counters."""
        return f"{self.prefix}item:{item_id}"

    def reply(self, token: str) -> str:
        """Where a caller waits for his event."""
        return f"{self.prefix}reply:{token}"

    @property
    def dead(self) -> str:
        """Stream of dead letters."""
        return f"{self.prefix}dead"

    @property
    def counts(self) -> str:
        """Outcomes of events, counted."""
        return f"{self.prefix}counts"

    @property
    def workers(self) -> str:
        """Workers by their last sign of life."""
        return f"{self.prefix}workers"

    @property
    def impressions(self) -> str:
        """Stream of pages served."""
        return f"{self.prefix}impressions"

    @property
    def forgotten(self) -> str:
        """Set of the pseudonyms of people who were forgotten."""
        return f"{self.prefix}forgotten"

    @property
    def refusals(self) -> str:
        """How often it changed of whom nothing is to be kept."""
        return f"{self.prefix}refusals"

    @property
    def forgotten_key(self) -> str:
        """What tells the key that the pseudonyms were made with."""
        return f"{self.prefix}forgotten:key"

    @property
    def consent(self) -> str:
        """What users refuse."""
        return f"{self.prefix}consent"

    @property
    def rules(self) -> str:
        """Document of the shop's rules for its pages."""
        return f"{self.prefix}rules"

    @property
    def trial(self) -> str:
        """Document of the latest trial."""
        return f"{self.prefix}trial"

    @property
    def trial_history(self) -> str:
        """List of the documents of trials that ended."""
        return f"{self.prefix}trial:history"

    @property
    def trial_guard(self) -> str:
        """Held for a second by whoever looks after the trial."""
        return f"{self.prefix}trial:guard"

    def trial_counts(self, trial_id: str, phase: int, arm: str) -> str:
        """What was counted in one arm of a trial, in one phase."""
        return f"{self.prefix}trial:{trial_id}:{phase}:{arm}"

    def trial_users(self, trial_id: str, phase: int, arm: str) -> str:
        """HyperLogLog of the users in one arm."""
        return f"{self.trial_counts(trial_id, phase, arm)}:users"

    def trial_looks(self, trial_id: str) -> str:
        """What the guard of a trial saw over time."""
        return f"{self.prefix}trial:{trial_id}:looks"

    @property
    def ads(self) -> str:
        """Document of all campaigns."""
        return f"{self.prefix}ads"

    @property
    def ads_revision(self) -> str:
        """How often the campaigns were changed."""
        return f"{self.prefix}ads:revision"

    @property
    def ads_limits(self) -> str:
        """Budgets of campaigns, and which of them run."""
        return f"{self.prefix}ads:limits"

    @property
    def ads_spent(self) -> str:
        """What each campaign spent in all."""
        return f"{self.prefix}ads:spent"

    @property
    def ads_clicks(self) -> str:
        """Clicks that ads got, and clicks that the model expected."""
        return f"{self.prefix}ads:clicks"

    def ads_day(self, day: int) -> str:
        """What each campaign spent and showed on a day, counted from 1970."""
        return f"{self.prefix}ads:day:{day}"

    def ads_shown(self, day: int, user_id: str) -> str:
        """How often a user was shown each campaign on a day."""
        return f"{self.prefix}ads:shown:{day}:{user_id}"

    def ad_impression(self, impression_id: str) -> str:
        """One ad that was shown."""
        return f"{self.prefix}ads:impression:{impression_id}"
