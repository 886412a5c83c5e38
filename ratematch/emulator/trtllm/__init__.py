"""The faces of TensorRT-LLM: ``trtllm-serve``, its orchestrator, metrics and files."""
