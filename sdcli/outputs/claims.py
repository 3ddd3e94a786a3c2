"""Which jobs of a run are still to be generated: all of them, or with --resume those that no process has finished or
claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Ledger
from sdcli.records import Key, Line

State = Line | Literal["claimed", "elsewhere"]
"""Of a job: its line if it is finished; claimed by this process; or claimed by another one."""


class Claims:
    """The claims of one process on the jobs of a run.

    Args:
        folder: the output folder of a run that is resumed; None for any other run, which claims every job.
    """

    def __init__(self, folder: OutputFolder | None) -> None:
        self._folder = folder
        self._ledger = None
        if folder:
            # While no process writes: a line that is read and then removed would shift the lines after it.
            with folder.locks.writing():
                self._ledger = Ledger(folder.path)

    @property
    def has_lines(self) -> bool:
        """Whether an earlier run has left lines in the folder."""
        return self._ledger is not None and self._ledger.has_lines

    def claim(self, keys: Sequence[Key]) -> list[State]:
        """The state of each job. Claimed jobs are closed to other processes until `release`."""
        if self._ledger is None or self._folder is None:
            return ["claimed"] * len(keys)
        locks = self._folder.locks
        states: list[State] = []
        for key in keys:
            line = self._ledger.find(key)
            states.append(line or ("claimed" if locks.claim(key.key) else "elsewhere"))
        if "claimed" in states:
            # Another process may have finished a job between the look at the journal and the claim.
            with locks.writing():
                self._ledger.refresh()
            for place, key in enumerate(keys):
                if states[place] == "claimed" and (line := self._ledger.find(key)):
                    locks.release(key.key)
                    states[place] = line
        return states

    def release(self, keys: Sequence[Key]) -> None:
        """Open claimed jobs to other processes."""
        if self._folder is not None:
            for key in keys:
                self._folder.locks.release(key.key)

    def find(self, key: Key) -> Line | None:
        """The line of a finished job or page of the grid; None if there is none."""
        return self._ledger.find(key) if self._ledger else None

    def name(self, key: Key) -> str | None:
        """The file name that the journal has for a job, relative to the output folder."""
        return self._ledger.name(key) if self._ledger else None
