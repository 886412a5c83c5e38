"""Step times from measured kernels: AIConfigurator's database, an optional extra (``ratematch[kernels]``).

The same interface as the roofline. The database has matrix products, attention, experts and exchanges as they were
timed on the GPU with TensorRT-LLM, each summed over layers by AIConfigurator's own engine. An iteration is put
together here, from what each of them works on:

* attention: each rank's own sequences, prompts and decoding sequences apart; the slowest rank decides;
* experts: the tokens of all ranks together, whichever rank they come from;
* everything else (projections, norms, exchanges): the tokens of the busiest rank;
* output projection: one row for each token that is sampled, prompts too.

The engine's own mixed step is not used: it gives the experts the busiest rank's tokens times the ranks, leaves the
output projection out, and under MLA (whose attention is one measured block) prices all tokens as one prompt and the
decoding sequences' attention at nothing. Host time and the fixed part of a step are the roofline model's, for the
database holds kernels only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count

from ratematch.emulator.efficiency import Efficiency
from ratematch.emulator.kerneldata import Evaluate, look_up, want
from ratematch.emulator.steptime import RankLoad, StepBatch, merge_alike
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism

_SEQUENCES = ("attention", "mla_block")
"""Operations whose time depends on the lengths of sequences. Their tokens alone decide over all others."""
_EXPERTS = ("moe", "moe_overlap")
_HEAD = ("logits_gemm",)
_REMEMBERED = 4096


class KernelStepTime:
    """Step times of ``model`` on ``gpu`` with ``mapping`` and ``mtp`` drafts, from measured kernels.

    Drafts cost further layers: the database's engine adds them to decoding; in a step with prompts the first draft
    layer sees all tokens and later ones, which see one for each sequence, are left out.

    Raises:
        ValueError: the extra is not installed, or the database has nothing for this combination.
    """

    def __init__(
        self,
        model: Model,
        gpu: Gpu,
        mapping: Parallelism,
        precision: str,
        kv_dtype: str,
        mtp: int = 0,
        moe_backend: str = "",
    ):
        self._fixed = Efficiency()  # host and step times: nothing of them is learnt
        wanted = want(model, gpu, mapping, precision, kv_dtype, mtp, moe_backend)
        measured = look_up(wanted)
        self._layers = 1 + 1 / model.layers if mtp else 1.0
        self._prompts = _Phase(measured.context)
        self._decoding = _Phase(measured.generation)
        self._exchange = measured.exchange
        self._ranks = mapping.dp_ranks
        self._reaching = model.moe.experts / model.moe.top_k if model.moe and wanted.even else 0.0

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        """Seconds of the iteration; the slowest rank decides."""
        fixed, ranks = self._fixed, batch.ranks
        tokens = [load.ctx_tokens + load.gen_requests * load.query_tokens for load in ranks]
        most, mean = _whole(max(tokens)), sum(tokens) / len(tokens)
        kinds = [load for load, _ in merge_alike(ranks)]
        if any(load.ctx_tokens for load in ranks):
            prompts, decoding = self._prompts, self._decoding
            rows = max([load.ctx_requests + load.gen_requests * load.query_tokens for load in ranks])
            device_ms = self._layers * (self._experts(prompts, mean) + prompts.others(most))
            device_ms += max(map(self._prompt_attention, kinds)) + decoding.head(_whole(rows))
            device_ms += self._exchange(True, most)
        elif most:
            decoding = self._decoding
            device_ms = max(map(self._decode_attention, kinds)) + self._experts(decoding, mean)
            device_ms += decoding.others(most)
            device_ms += decoding.head(most) + self._exchange(False, most)
        else:
            device_ms = 0.0
        device = device_ms / 1000 + fixed.step_s
        host = fixed.host_step_s
        host += fixed.host_request_s * max([load.gen_requests + load.ctx_requests for load in ranks])
        return max(device, host) if overlap else device + host

    def _experts(self, phase: _Phase, mean: float) -> float:
        """Routed experts of a step with ``mean`` tokens a rank, ms.

        With even routing the database deals tokens out, so that E / k tokens reach all E experts. Drawn they reach
        E (1 - (1 - k / E)^n) of them, as few tokens of the database's do; what more tokens than E / k take beyond
        reading every expert once is the same for both.
        """
        full = self._reaching
        if not full or mean <= 0:
            return phase.experts(_whole(mean))
        tokens = mean * self._ranks
        reached_ms = _between(phase.experts, full * (1 - (1 - 1 / full) ** tokens) / self._ranks)
        if tokens <= full:
            return reached_ms
        return reached_ms + max(0.0, phase.experts(_whole(mean)) - _between(phase.experts, full / self._ranks))

    def _prompt_attention(self, load: RankLoad) -> float:
        """Attention of a rank in a step with prompts, ms: its prompts as long as their mean, and what decodes."""
        milliseconds = self._decode_attention(load)
        if load.ctx_tokens > 0:
            requests = load.ctx_requests or 1.0
            new = load.ctx_tokens / requests
            # n tokens after p others attend to n (p + (n + 1) / 2).
            before = load.ctx_attended / load.ctx_tokens - (new + 1) / 2
            # Less than one prompt, in the mean step of a steady state, is that part of a whole one.
            part = self._layers * requests / _whole(requests)
            milliseconds += part * self._prompts.attention(_whole(requests), _whole(new), max(0, round(before)))
        return milliseconds

    def _decode_attention(self, load: RankLoad) -> float:
        if load.gen_requests <= 0:
            return 0.0
        cached = _whole(load.kv_read_tokens / load.gen_requests)
        return self._decoding.attention(_whole(load.gen_requests * load.query_tokens), cached, 0)


def _whole(number: float) -> int:
    """The nearest whole number, of something that is not nothing at least 1."""
    return max(1, round(number)) if number > 0 else 0


def _between(milliseconds: Callable[[int], float], number: float) -> float:
    """At a number that is not whole, on the line between the whole ones beside it; below 1 as at 1."""
    low = max(1, math.floor(number))
    share = max(0.0, number - low)
    return milliseconds(low) + (share * (milliseconds(low + 1) - milliseconds(low)) if share else 0.0)


class _Phase:
    """The operations of prompts or of decoding, by what they work on. All in ms, over all layers."""

    def __init__(self, evaluate: Evaluate):
        self._evaluate = evaluate
        names = list(_names(evaluate))
        self._sequences = [index for index, name in enumerate(names) if name in _SEQUENCES]
        groups: dict[tuple[str, ...], list[int]] = {
            kind: [index for index, name in enumerate(names) if name in kind] for kind in (_EXPERTS, _HEAD)
        }
        if not self._sequences:
            raise ValueError(f"the kernel database has no attention by a name known here: {', '.join(names)}")
        taken = {*self._sequences, *groups[_EXPERTS], *groups[_HEAD]}
        remember = lru_cache(maxsize=_REMEMBERED)
        self.experts = remember(partial(self._of_tokens, groups[_EXPERTS]))
        self.head = remember(partial(self._of_tokens, groups[_HEAD]))
        self.others = remember(partial(self._of_tokens, [k for k in range(len(names)) if k not in taken]))

    def attention(self, sequences: int, tokens: int, before: int) -> float:
        """Milliseconds of attention of ``sequences`` sequences of ``tokens`` tokens: cached ones, or new ones after
        ``before`` others."""
        operations = self._evaluate(self._sequences, batch_size=sequences, s=max(1, tokens), prefix=before)
        return sum([milliseconds for _, milliseconds, *_ in operations])

    def _of_tokens(self, indices: list[int], tokens: int) -> float:
        operations = self._evaluate(indices, batch_size=tokens, s=1, x=tokens) if indices and tokens else []
        return sum([milliseconds for _, milliseconds, *_ in operations])


def _names(evaluate: Evaluate) -> Iterator[str]:
    """Names of an engine's operations, in order, without the phase they begin with. The engine does not say how many
    there are: it refuses the one after the last."""
    for index in count():
        try:
            ((name, *_),) = evaluate([index], batch_size=1, s=1024)
        except ValueError as error:
            if index and "out of range" in str(error):
                return
            raise
        yield name.partition("_")[2]
