"""One line of stderr that says what runs at the moment.

Owns that line. Results go to stdout and never through here. A terminal sees the line overwritten; a
file or a CI log gets a line every few seconds, enough to see that the run is alive.
"""

import sys
import time

LOG_SECONDS = 5.0

_last_logged = 0.0


def show(text):
    """Says what runs. An empty text clears the line."""
    global _last_logged
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text and time.monotonic() - _last_logged >= LOG_SECONDS:
        _last_logged = time.monotonic()
        print(f"… {text}", file=sys.stderr, flush=True)


def warn(text):
    """Says loudly, on a line of its own, that something is missing or failed."""
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{start}*** {text}", file=sys.stderr, flush=True)
