"""A process that asks at a fixed rate, whatever becomes of the answers, and writes down what each caller saw.

Calls have a moment at which they are meant to begin, and latency counts from there: a generator that waits for one
answer before it asks anew would stop asking just when the server stalls, and so leave out what is to be measured
("coordinated omission", Tene 2013).
"""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

from recsys_plugin.bench.thin_client import resident_bytes
from recsys_plugin.chaos.async_callers import AsyncCallers
from recsys_plugin.chaos.callers import Callers
from recsys_plugin.chaos.driver_plan import DriverPlan
from recsys_plugin.chaos.seen import Footprint, Log, Seen, joined
from recsys_plugin.errors import RecsysError

__all__ = ["Go", "drive"]

#: Seconds from one look at the process's memory to the next.
_MEMORY_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Go:
    """Begin asking at this moment of ``time.monotonic``, which all processes of a machine share."""

    begins: float


def drive(
    connection: Connection, plan: DriverPlan, clock_offset: Synchronized[float], turn: Synchronized[int] | None
) -> None:
    """Make the clients, say so, and ask from :class:`Go` until any other order comes; send :class:`Seen`, and end.

    An error of this package while the clients are made is sent back as it is.
    """
    # What clients warn of beside the requests is expected here, hundreds of times.
    logging.getLogger("recsys_plugin").setLevel(logging.ERROR)
    try:
        before = Footprint.now()
        asynchronous = plan.kind == "async"
        callers = (AsyncCallers if asynchronous else Callers)(plan, clock_offset, turn)
        with callers:
            connection.send("ready")
            go = connection.recv()
            if go is None:
                return
            logs = [Log(plan.expected) for _ in range(plan.clients)]
            # Shortly before, so that all that is left from warming up is gone. A shop's backend does the same with
            # its garbage collector, see the README.
            ready = Footprint.now()
            gc.freeze()
            callers.begin(go.begins, logs)
            memory = []
            while not connection.poll(_MEMORY_EVERY):
                memory.append((time.monotonic(), resident_bytes()))
            connection.recv()
            callers.end()
            calls = joined([log.calls() for log in logs])
            end = Footprint.now()
        gc.unfreeze()
        closed = Footprint.now()
        connection.send(Seen(calls, before, ready, end, closed, tuple(memory)))
        connection.recv()
    except RecsysError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # nobody is left to ask for
