"""``python -m ratematch.emulator.triton FLAGS``: the real ``tritonserver`` on the CPU, marked as emulated."""

from ratematch.emulator.triton.command import main

main()
