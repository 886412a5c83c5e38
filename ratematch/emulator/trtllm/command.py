"""The command line of ``trtllm-serve``, option for option (contract, sections 1.1 and 1.2).

Settings that only an emulator has come from ``RATEMATCH_EMULATED_*`` environment variables (see ``environment``), so
that a launcher passes the same arguments to the emulator as to the real command.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from ratematch.emulator.environment import Environment, read_environment
from ratematch.emulator.errors import LoadFailure, SettingsError
from ratematch.emulator.serving import version_text
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.logs import LEVELS, Log
from ratematch.emulator.trtllm.orchestrator import Orchestrator
from ratematch.emulator.trtllm.orchestrator_settings import orchestrator_settings
from ratematch.emulator.trtllm.settings import read_yaml, worker_settings
from ratematch.emulator.trtllm.transfer import announce
from ratematch.emulator.trtllm.worker import Worker
from ratematch.engines.trtllm_serve.agreement import as_meant
from ratematch.engines.trtllm_serve.commandline import BANNER, command_options

ACTED_ON = {
    "host", "port", "tp_size", "pp_size", "cp_size", "ep_size", "cluster_size", "gpus_per_node",
    "enable_attention_dp", "max_batch_size", "max_num_tokens", "max_seq_len", "free_gpu_memory_fraction",
    "kv_cache_dtype", "config", "metadata_server_config_file", "server_role", "disagg_cluster_uri",
    "served_model_name", "enable_chunked_prefill", "log_level", "model", "max_beam_width",
    "num_postprocess_workers", "trust_remote_code",
}  # fmt: skip


NOT_EMULATED = ("disaggregated_mpi_worker", "mm_embedding_serve", "grpc")


class DefaultGroup(click.Group):
    """A group whose subcommand ``serve`` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in NOT_EMULATED:
            raise click.UsageError(f"{args[0]} is not emulated; start workers with serve and disaggregated", ctx)
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


class VersionedCommand(click.Command):
    """A subcommand that knows the options of the emulated version only; those of others have their defaults."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        known = {
            spelling
            for spellings in command_options(str(self.name), _environment().version).values()
            for spelling in spellings
        }
        return [
            parameter
            for parameter in super().get_params(ctx)
            if isinstance(parameter, click.Argument) or (known | {"--help"}) & {*parameter.opts}
        ]

    def invoke(self, ctx: click.Context) -> Any:
        for parameter in self.params:
            if parameter.name is not None:
                ctx.params.setdefault(parameter.name, parameter.get_default(ctx))
        return super().invoke(ctx)


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Emulates trtllm-serve on a machine without GPUs."""


def _options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _quiet(*names: str) -> list[Callable[[Any], Any]]:
    """Text options without a default."""
    return [click.option(name, type=str, default=None) for name in names]


def _flags(*names: str) -> list[Callable[[Any], Any]]:
    return [click.option(name, is_flag=True, default=False) for name in names]


ROLES = ("CONTEXT", "GENERATION", "MM_ENCODER", "VISUAL_GEN", "EMBEDDING")
_PATH = click.Path(exists=True, dir_okay=False)

SERVE_OPTIONS = _options(
    click.option("--tokenizer", type=str, default=None),
    click.option("--host", type=str, default="localhost"),
    click.option("--port", type=int, default=8000),
    click.option("--backend", type=click.Choice(["pytorch", "_autodeploy", "tensorrt", "trt"]), default="pytorch"),
    click.option("--tp_size", "--tensor_parallel_size", "tp_size", type=click.IntRange(1), default=1),
    click.option("--pp_size", "--pipeline_parallel_size", "pp_size", type=click.IntRange(1), default=1),
    click.option("--cp_size", "--context_parallel_size", "cp_size", type=click.IntRange(1), default=1),
    click.option("--ep_size", "--moe_expert_parallel_size", "ep_size", type=int, default=None),
    click.option("--cluster_size", "--moe_cluster_parallel_size", "cluster_size", type=int, default=None),
    click.option("--gpus_per_node", type=int, default=None),
    click.option("--max_batch_size", type=int, default=2048),
    click.option("--max_num_tokens", type=int, default=8192),
    click.option("--max_seq_len", type=int, default=None),
    click.option("--max_beam_width", type=int, default=1),
    click.option(
        "--kv_cache_free_gpu_memory_fraction",
        "--free_gpu_memory_fraction",
        "free_gpu_memory_fraction",
        type=float,
        default=0.9,
    ),
    click.option("--kv_cache_dtype", type=click.Choice(["auto", "fp8", "nvfp4"]), default=None),
    click.option("--config", "--extra_llm_api_options", "config", type=_PATH, default=None),
    click.option("--metadata_server_config_file", type=_PATH, default=None),
    click.option("--server_role", type=click.Choice(ROLES, case_sensitive=False), default=None),
    click.option("--num_postprocess_workers", type=int, default=0),
    click.option("--num_serve_frontends", type=click.IntRange(1, 64), default=1),
    click.option("--num_input_processor_workers", type=int, default=8),
    click.option("--num_media_load_workers", type=int, default=8),
    click.option("--generation-config", "generation_config", type=click.Choice(["auto", "trtllm"]), default="trtllm"),
    click.option("--log_level", type=click.Choice(sorted(LEVELS)), default="info"),
    click.option("--custom_module_dirs", type=str, multiple=True),
    click.option("--middleware", type=str, multiple=True),
    click.option("--hf_revision", "--revision", "hf_revision", type=str, default=None),
    click.option("--video_pruning_rate", type=float, default=None),
    click.option("--telemetry/--no-telemetry", default=True),
    click.option("--agent_percentage", type=float, default=0.0),
    *_quiet(
        "--disagg_cluster_uri", "--reasoning_parser", "--tool_parser", "--custom_tokenizer", "--served_model_name",
        "--chat_template", "--otlp_traces_endpoint", "--report_addr", "--post_processor_hook", "--media_io_kwargs",
        "--agent_types", "--visual_gen_args",
    ),
    *_flags(
        "--enable_attention_dp", "--trust_remote_code", "--enable_chunked_prefill", "--allow_request_chat_template",
        "--fail_fast_on_attention_window_too_large", "--grpc", "--enable_visual_gen",
    ),
)  # fmt: skip


AT_START = "Using LLM with PyTorch backend"
"""A line of the log level that the transceivers announce themselves at: where one of them keeps silent, it shows."""


@cli.command(cls=VersionedCommand)
@click.argument("model", type=str)
@SERVE_OPTIONS
@click.pass_context
def serve(ctx: click.Context, /, **options: Any) -> None:
    """One worker that serves MODEL (a path or a name)."""
    environment = _environment()
    typed = _typed(ctx)
    log = Log(options["log_level"])
    for name in sorted(typed - ACTED_ON):
        log.debug(f"option {name} is accepted and changes nothing here")
    try:
        config = as_meant(read_yaml(options["config"]) if options["config"] else {}, os.environ)
        settings = worker_settings(
            options["model"], options, typed, config, environment.version, environment.unchecked, environment.model
        )
        for warning in settings.warnings:
            log.warning(warning)
        log.info(AT_START)
        announce(settings.config, settings.version, log)
        worker = Worker(settings, environment, build(settings, environment), log)
        number = worker.run()
    except (SettingsError, LoadFailure, RuntimeError) as error:
        _die(log, error)
    _end_by(number)


@cli.command(cls=VersionedCommand)
@click.option("-c", "--config_file", "--config", "config_file", type=_PATH, required=True)
@click.option("-m", "--metadata_server_config_file", type=_PATH, default=None)
@click.option("-t", "--server_start_timeout", type=int, default=180, help="Seconds to wait for the workers.")
@click.option("-r", "--request_timeout", type=int, default=180, help="Seconds for one forwarded request.")
@click.option("-l", "--log_level", type=click.Choice(sorted(LEVELS)), default="info")
@click.option("--metrics-log-interval", type=int, default=0)
@click.option("-s", "--schedule_style", type=click.Choice(["context_first", "generation_first"]), default=None)
@click.option("--report_addr", type=str, default=None)
def disaggregated(**options: Any) -> None:
    """The orchestrator in front of context and generation workers."""
    environment = _environment()
    log = Log(options["log_level"])
    try:
        config = read_yaml(options["config_file"])
        settings = orchestrator_settings(
            config,
            environment,
            start_timeout_s=options["server_start_timeout"],
            request_timeout_s=options["request_timeout"],
            schedule_style=options["schedule_style"],
        )
        number = Orchestrator(settings, environment, log).run()
    except (SettingsError, RuntimeError, TimeoutError) as error:
        _die(log, error)
    _end_by(number)


def _environment() -> Environment:
    try:
        return read_environment(os.environ)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _typed(ctx: click.Context) -> set[str]:
    """Names of the options the user gave himself."""
    given = click.core.ParameterSource.COMMANDLINE
    return {name for name in ctx.params if ctx.get_parameter_source(name) is given}


def _die(log: Log, error: Exception) -> NoReturn:
    name = "ValueError" if isinstance(error, SettingsError) else "RuntimeError"
    if isinstance(error, TimeoutError):
        name = "TimeoutError"
    if isinstance(error, LoadFailure):
        log.error(str(error))
    else:
        log.error(f"{name}: {error}")
    sys.exit(1)


def _end_by(number: int) -> NoReturn:
    """End as the HTTP server does: by the signal that stopped it; an interrupt becomes click's ``Aborted!``."""
    if number == signal.SIGINT:
        raise click.Abort
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; always ends by ``SystemExit`` or a signal.

    Importing TensorRT-LLM prints a line with its version, whatever the command goes on to do.
    """
    try:
        click.echo(f"{BANNER}{version_text(_environment().version)}")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    cli.main(args=None if argv is None else list(argv), prog_name="trtllm-serve")
