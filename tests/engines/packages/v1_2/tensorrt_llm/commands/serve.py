import click


@click.group()
def main() -> None:
    """The command."""


@main.command()
@click.argument("model")
@click.option("--host")
@click.option("--port")
@click.option("--extra_llm_api_options", "--config")
def serve(model: str, host: str, port: str, extra_llm_api_options: str) -> None:
    """One worker."""
    llm_args_extra_dict: dict = {}
    llm_args_extra_dict.pop("disagg_cluster", None)


@main.command()
@click.option("-c", "--config_file")
@click.option("-t", "--server_start_timeout")
@click.option("-r", "--request_timeout")
def disaggregated(config_file: str, server_start_timeout: str, request_timeout: str) -> None:
    """The orchestrator."""


if __name__ == "__main__":
    main()
