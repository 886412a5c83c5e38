import sys

__version__ = "1.4.0rc4"
sys.stdout.write(f"[TensorRT-LLM] TensorRT-LLM version: {__version__}" + "\n")
sys.stdout.write('RATEMATCH-SCHEMA {"format": 1, "version": "9.9"}' + "\n")
