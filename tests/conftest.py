"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import settings

# A property holds or not; how long an example takes says only how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell that starts a run in the background has all of it ignore Ctrl-C: tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
