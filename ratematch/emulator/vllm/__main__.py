"""``python -m ratematch.emulator.vllm serve MODEL ARGS``: the emulated ``vllm serve``."""

from ratematch.emulator.vllm.command import main

main()
