"""A byte-level BPE tokenizer made on the spot, for peers that will not start without one (no hub can be reached)."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

VOCAB = 8000


def make_tokenizer(folder: Path) -> Path:
    """A folder that transformers' AutoTokenizer opens, trained on the sources of Python's own library."""
    from tokenizers import ByteLevelBPETokenizer  # noqa: PLC0415

    if (folder / "tokenizer_config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:120]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train(
        [str(file) for file in files], vocab_size=VOCAB, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "model_max_length": 1_000_000,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": VOCAB}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
