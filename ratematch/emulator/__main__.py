"""``python -m ratematch.emulator ARGS``: the emulated ``trtllm-serve``; ``dynamo-worker ARGS``: Dynamo's workers."""

import sys

if sys.argv[1:2] == ["dynamo-worker"]:
    from ratematch.emulator.dynamo.command import main as dynamo_worker

    dynamo_worker(sys.argv[2:])
else:
    from ratematch.emulator.trtllm.command import main

    main()
