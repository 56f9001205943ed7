"""The command line: one module a command, the tables that they print apart from them.

Exit codes: 0 done and good; 1 done, and the answer is no; 2 could not be done,
with one line that names the thing and the remedy; others in `harness.crash`.
What takes long to import is imported by the command that needs it.
"""

import os

# Set before XLA loads, or its C++ log lines drown what a person came to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from harness.cli.group import cli, main, run_command

__all__ = ["cli", "main", "run_command"]
