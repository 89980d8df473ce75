"""The one lock of the package."""

from __future__ import annotations

import os
import threading

# Held while classes or options are exchanged for others, or counts are added up. It is one lock,
# so that no two threads can wait for each other, and a fork waits for it too: it then finds nothing
# half exchanged, and the lock free in the new process.
ALONE = threading.RLock()

# Held while functions in modules are exchanged. Who holds it waits for nobody and runs no model.
# So a model may run in one thread while another holds `ALONE`.
EXCHANGING = threading.RLock()


# What was registered last is done first before a fork, and last behind it.
if hasattr(os, "register_at_fork"):
    for _lock in (EXCHANGING, ALONE):
        os.register_at_fork(
            before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
        )
