from enum import Enum
from typing import ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator


class Tokenizer:
    """A class of which pydantic knows nothing."""


class StrictBaseModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LoadFormat(Enum):
    AUTO = 0
    DUMMY = 1


class CudaGraphConfig(StrictBaseModel):
    batch_sizes: list[int] | None = None
    max_batch_size: int = Field(default=0, ge=0)
    enable_padding: bool = False


class MoeLoadBalancerConfig(StrictBaseModel):
    num_slots: int | None = None
    initial_global_assignments: dict[int, list[int]] | None = None
    layer_updates_per_iter: int = 0


class MoeConfig(StrictBaseModel):
    backend: Literal["CUTLASS", "CUTEDSL", "WIDEEP", "TRTLLM", "DEEPGEMM", "VANILLA", "TRITON"] = "CUTLASS"
    max_num_tokens: int | None = None
    load_balancer: object | str | None = Field(
        default=None, json_schema_extra={"type": "Union[MoeLoadBalancerConfig, str]"}
    )


class AttentionDpConfig(StrictBaseModel):
    enable_balance: bool = False
    timeout_iters: int = 50
    batching_wait_iters: int = 10


class DecodingBaseConfig(StrictBaseModel):
    max_draft_len: int | None = None
    speculative_model: str | None = Field(
        default=None, validation_alias=AliasChoices("speculative_model_dir", "speculative_model")
    )
    decoding_type: ClassVar[str] = ""


class MTPDecodingConfig(DecodingBaseConfig):
    num_nextn_predict_layers: int = 1
    relaxed_topk: int = 1
    decoding_type: ClassVar[str] = "MTP"


class EagleDecodingConfig(DecodingBaseConfig):
    eagle3_one_model: bool | None = True
    decoding_type: ClassVar[str] = "Eagle3"


class NGramDecodingConfig(DecodingBaseConfig):
    max_matching_ngram_size: int = 0
    decoding_type: ClassVar[str] = "NGram"


class KvCacheConfig(StrictBaseModel):
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = Field(default=0.9, ge=0, le=1)
    event_buffer_max_size: int = 0
    dtype: str = "auto"
    tokens_per_block: int = 32


class CacheTransceiverConfig(StrictBaseModel):
    backend: Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"] | None = None
    transceiver_runtime: Literal["CPP", "PYTHON"] | None = None
    max_tokens_in_buffer: int | None = None
    kv_transfer_timeout_ms: int | None = Field(default=None, gt=0)


class SchedulerConfig(StrictBaseModel):
    capacity_scheduler_policy: Literal["MAX_UTILIZATION", "GUARANTEED_NO_EVICT"] = "GUARANTEED_NO_EVICT"


class BaseLlmArgs(StrictBaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str
    tokenizer: str | Tokenizer | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    moe_expert_parallel_size: int | None = None
    enable_attention_dp: bool = False
    max_batch_size: int | None = Field(default=2048, json_schema_extra={"type": "Optional[int]"})
    max_num_tokens: int | None = 8192
    max_seq_len: int | None = None
    enable_chunked_prefill: bool = False
    kv_cache_config: KvCacheConfig = Field(default_factory=KvCacheConfig)
    scheduler_config: SchedulerConfig = Field(default_factory=SchedulerConfig)
    cache_transceiver_config: CacheTransceiverConfig | None = None
    speculative_config: EagleDecodingConfig | MTPDecodingConfig | NGramDecodingConfig | None = None
    return_perf_metrics: bool = False
    perf_metrics_max_requests: int = 0
    env_overrides: dict[str, str] | None = None


class TorchLlmArgs(BaseLlmArgs):
    backend: Literal["pytorch"] = "pytorch"
    build_config: object | None = Field(default=None, json_schema_extra={"status": "deprecated"})
    cuda_graph_config: CudaGraphConfig | None = Field(default_factory=CudaGraphConfig)
    attention_dp_config: AttentionDpConfig | None = None
    moe_config: MoeConfig = Field(default_factory=MoeConfig)
    disable_overlap_scheduler: bool = False
    print_iter_log: bool = False
    enable_iter_perf_stats: bool = False
    stream_interval: int = Field(default=1, ge=1)
    load_format: str | LoadFormat = LoadFormat.AUTO

    @field_validator("load_format", mode="before")
    @classmethod
    def name_of_load_format(cls, value: object) -> object:
        return LoadFormat[value.upper()] if isinstance(value, str) else value
