"""``python -m ratematch.emulator ARGS``: the emulated ``trtllm-serve``; ``dynamo-worker ARGS``: Dynamo's workers."""

import sys

from ratematch.emulator.loading import quick_loading

if sys.argv[1:2] == ["dynamo-worker"]:
    with quick_loading():
        from ratematch.emulator.dynamo.command import main as dynamo_worker

    dynamo_worker(sys.argv[2:])
else:
    with quick_loading():
        from ratematch.emulator.trtllm.command import main

    main()
