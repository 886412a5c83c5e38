"""vLLM's own server: ``vllm serve``, aggregated or as prefill and decode servers behind a small proxy."""
