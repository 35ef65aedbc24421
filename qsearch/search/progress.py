"""What a person sees while a search runs; nothing when nobody is looking."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from qsearch.search.front import front
from qsearch.search.history import Finished
from qsearch.search.objective import Objective, human

_ROWS = 8


class SearchProgress:
    """A bar with the time left above a few points of the front; on standard error, so that output stays clean."""

    def __init__(self, objectives: Sequence[Objective], shown: bool | None = None) -> None:
        """`shown` None: only when standard output and standard error are terminals."""
        self.objectives = objectives
        self.shown = sys.stdout.isatty() and sys.stderr.isatty() if shown is None else shown
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.live = Live(self.bar, console=Console(stderr=True), refresh_per_second=4)
        self.task: TaskID | None = None
        self.began, self.first_share = 0.0, 0.0

    def __enter__(self) -> "SearchProgress":
        if self.shown:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            self.live.stop()

    def stage(self, name: str, share: float = 0.0) -> None:
        """Begin a stage of which `share` (0…1) is already done."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.began, self.first_share = time.monotonic(), share
        self.task = self.bar.add_task(name, total=1.0, note="")

    def update(self, share: float, note: str, points: Sequence[Finished] = ()) -> None:
        """Show how far the stage is and the front so far."""
        if not self.shown or self.task is None:
            return
        done = share - self.first_share
        left = (1.0 - share) / done * (time.monotonic() - self.began) if done > 0 else None
        self.bar.update(self.task, completed=share, note=f"{note}{'' if left is None else f', {_span(left)} left'}")
        self.live.update(Group(self.bar, self._table(points)) if points else self.bar)

    def _table(self, points: Sequence[Finished]) -> Table:
        table = Table(box=None, padding=(0, 2))
        for head in ("trial", *(objective.label for objective in self.objectives), "from"):
            table.add_column(head, justify="left" if head == "from" else "right")
        best = front(points, self.objectives)
        picks = sorted({round(k * (len(best) - 1) / (_ROWS - 1)) for k in range(_ROWS)}) if best else []
        for point in (best[index] for index in picks):
            values = [human(objective.name, point.metrics[objective.name]) for objective in self.objectives]
            table.add_row(str(point.number), *values, point.origin)
        return table


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
