"""The errors a person sees: a sentence that names the thing and the mend."""


class HarnessError(Exception):
    """A request that cannot be carried out as given.

    The message is one sentence naming what is wrong and what mends it. The
    command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class RunStopped(HarnessError):
    """A run that had begun cannot go on now; what it had is kept, to be gone on from."""


class Terminated(RunStopped):
    """A run was asked to end, and has; the exit code is the shell's for SIGTERM."""

    exit_code = 143
