"""``ratematch schema``: what files may hold, for editors and other programs."""

from __future__ import annotations

from pathlib import Path

import click

from ratematch.cli.group import echo, main, stdout_console
from ratematch.cli.options import PATH


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-o", "out", type=PATH, metavar="FOLDER", help="Write NAME.schema.json there; all without a NAME.")
@click.option("--force", is_flag=True, help="Write over other files of these names.")
def schema(names: tuple[str, ...], out: Path | None, force: bool) -> None:
    """Print the JSON schema of a kind of file, or write several; without a NAME and -o, list them.

    \b
    Example:
        ratematch schema
        ratematch schema sweep > sweep.schema.json
        ratematch schema -o ~/.config/ratematch/schemas
    """
    from ratematch.exchange.schemas import SCHEMAS
    from ratematch.show.console import table
    from ratematch.store.files import write_new

    for name in names:
        if name not in SCHEMAS:
            raise click.UsageError(f"there is no schema {name!r}; known: {', '.join(SCHEMAS)}")
    if out is not None:
        files = {out / SCHEMAS[name].file: SCHEMAS[name].text() for name in names or SCHEMAS}
        write_new(files, force=force)
        echo(f"{out}: {', '.join(file.name for file in files)}")
    elif len(names) == 1:
        echo(SCHEMAS[names[0]].text(), nl=False)
    elif names:
        raise click.UsageError("several schemas need a folder: -o FOLDER")
    else:
        stdout_console().print(
            table("schemas", ["name", "of"], [(item.name, item.files) for item in SCHEMAS.values()])
        )
