"""The engine of an emulated Triton; what it does is in ``ratematch.emulator.triton.standin``."""

import os
import sys
from pathlib import Path

# The server's Python has NumPy and nothing else; this file is a link into the package.
sys.path.append(str(Path(__file__).resolve().parents[7]))
sys.path.extend(os.environ.get("RATEMATCH_EMULATED_PATH", "").split(os.pathsep))

from ratematch.emulator.triton.standin import StandIn as TritonPythonModel  # noqa: F401
