"""What a person sees of a run while it lasts."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

from harness.measure import memory


class Display:
    """Bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console):
        """Write to a console."""
        self._console = console

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print the name of a step, and the memory in use."""
        self._console.print(f"[bold]{name}[/bold]  [dim]{memory.describe()}[/dim]")
        yield

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar, and yield what moves it on to a number of `total`."""
        if not self._console.is_terminal:
            with self.step(name):
                yield lambda done: None
            return
        with Progress(console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, completed=done)
