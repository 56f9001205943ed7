"""The one error a person sees: a sentence that names the thing and the mend."""


class HarnessError(Exception):
    """A request that cannot be carried out as given.

    The message is one sentence naming what is wrong and what mends it. The
    command line prints it without a traceback and exits with code 2.
    """
