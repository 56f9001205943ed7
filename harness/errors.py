"""The errors a person sees: a sentence that names the thing and the remedy."""


class HarnessError(Exception):
    """A request that cannot be carried out as given.

    The message is one sentence naming what is wrong and what remedies it. The
    command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class CrashedElsewhere(Exception):
    """Another process of the harness ended, or failed, in a way that was not foreseen.

    Attributes:
      reports: What is known of it, such as its traceback; it goes into the report.
    """

    def __init__(self, message: str, *reports: str):
        """Take the sentence to show, and what else there is."""
        super().__init__(message)
        self.reports = reports


class RunStopped(HarnessError):
    """A run that had begun cannot go on now; what it had is saved, to be gone on from."""


class Terminated(RunStopped):
    """A run was asked to end, and has; the exit code is the shell's for SIGTERM."""

    exit_code = 143
