from enum import Enum, IntEnum
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator


class Tokenizer:
    """A class of which pydantic knows nothing."""


class StrictBaseModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CpType(IntEnum):
    ULYSSES = 0
    HELIX = 1


class LoadFormat(Enum):
    AUTO = 0
    DUMMY = 1


class CpConfig(StrictBaseModel):
    cp_type: CpType | None = None
    tokens_per_block: int | None = None

    @field_validator("cp_type", mode="before")
    @classmethod
    def name_of_type(cls, value: object) -> object:
        return CpType[value.upper()] if isinstance(value, str) else value


class BaseCudaGraphConfig(StrictBaseModel):
    batch_sizes: list[int] | None = None
    max_batch_size: int = Field(default=0, ge=0)
    enable_padding: bool = False


class DecodeCudaGraphConfig(BaseCudaGraphConfig):
    mode: Literal["decode"] = "decode"


class EncodeCudaGraphConfig(BaseCudaGraphConfig):
    mode: Literal["encode"] = "encode"
    num_tokens: list[PositiveInt] | None = None


CudaGraphConfig = Annotated[DecodeCudaGraphConfig | EncodeCudaGraphConfig, Field(discriminator="mode")]


class MoeLoadBalancerConfig(StrictBaseModel):
    num_slots: int | None = None
    layer_updates_per_iter: int = 0


class MoeConfig(StrictBaseModel):
    backend: Literal["AUTO", "CUTLASS", "CUTEDSL", "TRTLLM", "DEEPGEMM", "MEGAMOE_DEEPGEMM", "VANILLA"] = "AUTO"
    load_balancer: MoeLoadBalancerConfig | str | None = Field(
        default=None, json_schema_extra={"type": "Union[MoeLoadBalancerConfig, str]"}
    )


class AttentionDpConfig(StrictBaseModel):
    enable_balance: bool = False
    timeout_iters: int = Field(default=50, ge=0)
    batching_wait_iters: int = Field(default=10, ge=0)
    enable_kv_cache_aware_routing: bool = False
    kv_cache_routing_load_balance_weight: float = 1.0
    kv_cache_routing_new_conv_placement: Literal["round_robin", "least_queued", "least_tokens"] = "round_robin"


class DecodingBaseConfig(StrictBaseModel):
    max_draft_len: int | None = Field(default=None, ge=0)
    speculative_model: str | None = Field(
        default=None, validation_alias=AliasChoices("speculative_model", "speculative_model_dir")
    )


class MTPDecodingConfig(DecodingBaseConfig):
    decoding_type: Literal["MTP"] = "MTP"
    acceptance_rate_window_size: int | None = None
    acceptance_rate_threshold: float | None = Field(default=None, ge=0, le=1)
    use_rejection_sampling: bool = False

    @model_validator(mode="before")
    @classmethod
    def old_name_of_length(cls, data: Any) -> Any:
        if isinstance(data, dict) and "num_nextn_predict_layers" in data:
            data = dict(data)
            data["max_draft_len"] = data.pop("num_nextn_predict_layers")
        return data


class Eagle3DecodingConfig(DecodingBaseConfig):
    decoding_type: Literal["Eagle3"] = "Eagle3"
    eagle3_one_model: bool = True


class NGramDecodingConfig(DecodingBaseConfig):
    decoding_type: Literal["NGram"] = "NGram"
    max_matching_ngram_size: PositiveInt = 2


SpeculativeConfig = Annotated[
    MTPDecodingConfig | Eagle3DecodingConfig | NGramDecodingConfig, Field(discriminator="decoding_type")
]


class KvCacheConfig(StrictBaseModel):
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = Field(default=0.9, ge=0, le=1)
    event_buffer_max_size: int = 0
    dtype: str = "auto"
    tokens_per_block: int = 32
    iteration_stats_interval: int = Field(default=1, gt=0)
    pool_ratio: list[float] | None = None


class CacheTransceiverConfig(StrictBaseModel):
    backend: Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"] | None = None
    transceiver_runtime: Literal["CPP", "PYTHON"] | None = "PYTHON"
    max_tokens_in_buffer: int | None = None
    kv_cache_bounce_size_mb: int = Field(default=0, ge=0)
    kv_transfer_timeout_ms: PositiveInt | None = 60000
    agent_bounce_buffer_enable: bool = Field(default=False, deprecated="it does nothing")


class SchedulerConfig(StrictBaseModel):
    capacity_scheduler_policy: Literal["MAX_UTILIZATION", "GUARANTEED_NO_EVICT"] = "GUARANTEED_NO_EVICT"
    use_python_scheduler: bool = False


class TelemetryConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    disabled: bool = False


class QuantConfig(BaseModel):
    quant_algo: str | None = None


class BaseLlmArgs(StrictBaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str
    tokenizer: str | Tokenizer | None = Field(default=None, json_schema_extra={"type": "Optional[Tokenizer]"})
    mpi_session: object | None = Field(default=None, alias="_mpi_session")
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    cp_config: CpConfig | None = None
    moe_expert_parallel_size: int | None = None
    enable_attention_dp: bool = False
    max_batch_size: int | None = Field(default=2048, json_schema_extra={"type": "Optional[int]"})
    max_num_tokens: int | None = 8192
    max_seq_len: int | None = None
    enable_chunked_prefill: bool = False
    revision: str | None = None
    kv_cache_config: KvCacheConfig = Field(default_factory=KvCacheConfig)
    quant_config: QuantConfig | None = None
    scheduler_config: SchedulerConfig = Field(default_factory=SchedulerConfig)
    cache_transceiver_config: CacheTransceiverConfig | None = None
    speculative_config: SpeculativeConfig | None = None
    telemetry_config: TelemetryConfig | None = None
    return_perf_metrics: bool = False
    perf_metrics_output_dir: str | None = None
    perf_metrics_max_requests: int = Field(default=0, json_schema_extra={"status": "deprecated"})
    env_overrides: dict[str, str] | None = None

    @field_validator("env_overrides", mode="before")
    @classmethod
    def texts(cls, value: Any) -> Any:
        return {key: str(each) for key, each in value.items()} if isinstance(value, dict) else value


TORCH_LLMARGS_REMOVED_ARGS = frozenset({"sampler_type"})


class TorchLlmArgs(BaseLlmArgs):
    backend: Literal["pytorch"] = "pytorch"
    generation_config: Literal["auto", "trtllm"] = Field(
        default="trtllm", json_schema_extra={"type": "Literal['auto', 'trtllm']"}
    )
    cuda_graph_config: CudaGraphConfig | None = Field(default_factory=DecodeCudaGraphConfig)
    prefill_cuda_graph_backend: Literal["disabled", "piecewise", "breakable"] = "disabled"
    attention_dp_config: AttentionDpConfig | None = None
    moe_config: MoeConfig = Field(default_factory=MoeConfig)
    disable_overlap_scheduler: bool = False
    print_iter_log: bool = False
    enable_iter_perf_stats: bool = False
    stream_interval: PositiveInt = 1
    invented_switch: bool = False
    load_format: str | LoadFormat = LoadFormat.AUTO

    @field_validator("cuda_graph_config", mode="before")
    @classmethod
    def mode_of_graphs(cls, value: Any) -> Any:
        return {**value, "mode": value.get("mode", "decode")} if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def drop_removed(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if key not in TORCH_LLMARGS_REMOVED_ARGS}
