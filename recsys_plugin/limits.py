"""How much of anything is taken from outside: what is more is refused, by name, before it costs anything.

=======================================  =========================================================================
ids                                      :data:`MOST_ID_BYTES` bytes each, no control characters
users of one call                        :data:`MOST_USERS`
candidates, item ids, exclusions, stock  :data:`MOST_CANDIDATES` a call; ``k`` has no limit, as a page has at most the
                                         catalogue
sponsored items of a request             :data:`MOST_SPONSORED`
search queries                           :data:`MOST_QUERY_CHARACTERS`; the first 400 are read
what a call says of itself               :data:`MOST_CONTEXT_KEYS` keys
events                                   :data:`MOST_EVENTS` a call, :data:`MOST_EVENT_BYTES` each
documents (rules, campaigns, trial, …)   :data:`MOST_DOCUMENT_BYTES`, from a file or from Redis
campaigns, items of all campaigns        :data:`MOST_CAMPAIGNS`, :data:`MOST_ADVERTISED`
a feature's value in Redis               :data:`MOST_VALUE_BYTES`
entities of one bulk read                :data:`MOST_ENTITIES`, and :data:`MOST_COLUMN_VALUES` in a column of lists, the
                                         places that shorter lists leave empty included
whole numbers in text                    18 digits, see :mod:`recsys_plugin.digits`; in JSON 4,300, as Python has it
an answer of Triton                      :data:`MOST_MESSAGE_BYTES`, and of the shape that was asked for
a manifest of models, a file of a secret  :data:`MOST_MANIFEST_BYTES`, :data:`MOST_SECRET_BYTES`
metrics that `recsys top` reads          :data:`MOST_METRICS_BYTES` of each address
=======================================  =========================================================================

Tables that ``recsys data`` reads are the operator's own and as large as the shop is: they are streamed, not limited.
"""

from __future__ import annotations

__all__ = [
    "MOST_ADVERTISED",
    "MOST_CAMPAIGNS",
    "MOST_CANDIDATES",
    "MOST_COLUMN_VALUES",
    "MOST_CONTEXT_KEYS",
    "MOST_DOCUMENT_BYTES",
    "MOST_ENTITIES",
    "MOST_EVENTS",
    "MOST_EVENT_BYTES",
    "MOST_ID_BYTES",
    "MOST_MANIFEST_BYTES",
    "MOST_MESSAGE_BYTES",
    "MOST_METRICS_BYTES",
    "MOST_QUERY_CHARACTERS",
    "MOST_SECRET_BYTES",
    "MOST_SPONSORED",
    "MOST_USERS",
    "MOST_VALUE_BYTES",
]

MOST_ID_BYTES = 256
MOST_USERS = 10_000
MOST_CANDIDATES = 10_000
#: Sponsored items that one request may bring.
MOST_SPONSORED = 1_000
#: A longer query is refused; how much of a shorter one counts is the tokenizer's business.
MOST_QUERY_CHARACTERS = 10_000
#: Keys of what a call says about itself.
MOST_CONTEXT_KEYS = 100
#: Events in one call of ``record_many``.
MOST_EVENTS = 5_000
#: Bytes of an event in JSON.
MOST_EVENT_BYTES = 64 * 1024
#: Bytes of a JSON document: more than the most campaigns with the most items have.
MOST_DOCUMENT_BYTES = 32 << 20
MOST_CAMPAIGNS = 1_000
#: Items of all campaigns together: what one call of the model ``rank`` takes.
MOST_ADVERTISED = 10_000
#: Bytes of one feature's value: a list of 4,000 of the longest ids, or of 200,000 numbers.
MOST_VALUE_BYTES = 1 << 20
#: Entities that one call of the bulk reader reads: ten times the largest catalogue that was measured.
MOST_ENTITIES = 10_000_000
#: Places of a column of lists, which is as wide as the longest: 1 GiB of 64-bit numbers.
MOST_COLUMN_VALUES = 1 << 27
#: Bytes of one gRPC message; gRPC's own limit of 4 MiB is less than one page of a catalogue.
MOST_MESSAGE_BYTES = 1 << 30
#: Bytes of the metrics of one process, as text; a client with hundreds of features shows a hundredth of this.
MOST_METRICS_BYTES = 16 << 20
#: Bytes of a manifest, which names some files of each of a dozen models.
MOST_MANIFEST_BYTES = 1 << 20
MOST_SECRET_BYTES = 65_536
