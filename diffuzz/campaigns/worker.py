"""The process in which slices are done: ``python -m diffuzz.campaigns.worker``.

One line of JSON in is a task, one line out what came of it (see diffuzz.campaigns.doing). What code of others prints
goes to standard error. The process ends when its standard input does, in the middle of a task, too: whoever it works
for has gone, and would not hear of the result.
"""

from __future__ import annotations

import os
import queue
import sys
import threading


def main() -> None:
    """Do tasks until there are none."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            tasks.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    # After the reader has begun: who started this process may be gone before all of it is imported.
    from diffuzz.campaigns.doing import done

    while True:
        answers.write(done(tasks.get()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
