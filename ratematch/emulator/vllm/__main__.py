"""``python -m ratematch.emulator.vllm serve MODEL ARGS``: the emulated ``vllm serve``."""

from ratematch.emulator.loading import quick_loading

with quick_loading():
    from ratematch.emulator.vllm.command import main

main()
