"""``python -m ratematch.emulator ARGS``: the emulated ``trtllm-serve``; ``dynamo-worker ARGS``: Dynamo's workers."""

import sys

from ratematch.store.uncollected import uncollected

if sys.argv[1:2] == ["dynamo-worker"]:
    from ratematch.emulator.dynamo.command import main as dynamo_worker

    dynamo_worker(sys.argv[2:])
else:
    with uncollected():  # loading makes no garbage, and looking for it takes a tenth of a start
        from ratematch.emulator.trtllm.command import main

    main()
