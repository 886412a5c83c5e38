from .llm_args import TorchLlmArgs as TorchLlmArgs
