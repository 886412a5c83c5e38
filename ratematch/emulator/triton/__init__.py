"""A real ``tritonserver`` without GPUs: stand-ins in Python for what only TensorRT-LLM's C++ backend does."""
