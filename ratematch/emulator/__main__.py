"""``python -m ratematch.emulator ARGS``: the emulated ``trtllm-serve``."""

from ratematch.emulator.command import main

main()
