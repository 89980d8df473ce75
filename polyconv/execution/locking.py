"""The one lock of the package."""

from __future__ import annotations

import os
import threading

# Held while functions or classes are exchanged, or counts are added up. As there is one lock, no
# two threads can wait for each other. A fork waits for it too: the new process finds nothing half
# exchanged, and the lock free.
ALONE = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=ALONE.acquire, after_in_parent=ALONE.release, after_in_child=ALONE.release
    )
