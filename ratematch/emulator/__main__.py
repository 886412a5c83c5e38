"""``python -m ratematch.emulator ARGS``: the emulated ``trtllm-serve``."""

from ratematch.emulator.trtllm.command import main

main()
