import sys

__version__ = "1.2.1"
sys.stdout.write(f"[TensorRT-LLM] TensorRT-LLM version: {__version__}" + "\n")
