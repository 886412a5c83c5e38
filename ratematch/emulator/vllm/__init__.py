"""The emulated ``vllm serve``: vLLM's command line, routes, logs and KV hand-over over the emulator's scheduler."""
