"""Who waits for whom?"""

from __future__ import annotations

import os
import threading

# Held while functions or classes are exchanged for others, or counts are added up. It is one lock,
# so that no two threads can wait for each other, and a fork waits for it too: it then finds nothing
# half exchanged, and the lock free in the new process.
ALONE = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=ALONE.acquire, after_in_parent=ALONE.release, after_in_child=ALONE.release
    )
