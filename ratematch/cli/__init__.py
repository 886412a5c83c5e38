"""The command line: each verb calls one library function, prints what it returns, and picks the exit code.

One module a family of verbs, :mod:`ratematch.cli.options` for options that several share; a verb imports what it
needs when it runs, so that --help and errors come at once.

Exit codes: 0 ok, 1 the input must change, 2 some experiments failed (the same command resumes), 3 there are results
but none may be trusted. ``--json`` prints one object on stdout; everything else a verb says goes to stderr.
"""

from ratematch.cli import calibrate, decide, exports, imports, init, load, model, plan, run, schema, site
from ratematch.cli.group import main

__all__ = [
    "calibrate",
    "decide",
    "exports",
    "imports",
    "init",
    "load",
    "main",
    "model",
    "plan",
    "run",
    "schema",
    "site",
]
