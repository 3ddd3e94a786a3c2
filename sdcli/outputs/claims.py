"""Which jobs of a run are left to draw: all, or with --resume those that are neither done nor another process's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from sdcli.jobs import Job
from sdcli.outputs.folder import OutputFolder
from sdcli.outputs.journal import Entry, Keys, Ledger
from sdcli.settings import Settings

State = Entry | Literal["ours", "theirs"]
"""Of a job: done, to be drawn here, or being drawn by another process."""


class Work:
    """The jobs of one process.

    Args:
        settings: of the run.
        folder: where its images and records are; None for a run that saves nothing.
    """

    def __init__(self, settings: Settings, folder: OutputFolder | None) -> None:
        self._folder = folder if settings.resume is not None else None
        self._ledger = None
        if self._folder:
            # While nobody writes: a line that is read and then taken back would put the next ones out of place.
            with self._folder.locks.writing():
                self._ledger = Ledger(self._folder.path)
        self._keys = Keys(settings)

    @contextmanager
    def taken(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, str, State]]]:
        """The run's next jobs, each with its name in records and what is to be done about it.

        Those that are ours are kept from other processes while the context lasts.
        """
        keys = self.keys(jobs)
        states = self.take(keys)
        try:
            yield list(zip(jobs, keys, states, strict=True))
        finally:
            self.free(keys, states)

    def keys(self, jobs: Sequence[Job]) -> list[str]:
        """The names of the run's next jobs in records."""
        return [self._keys.next(job) for job in jobs]

    def free(self, keys: Sequence[str], states: Sequence[State]) -> None:
        """Give back those that were ours."""
        if self._folder is not None:
            for key, state in zip(keys, states, strict=True):
                if state == "ours":
                    self._folder.locks.free(key)

    def take(self, keys: Sequence[str]) -> list[State]:
        """What is to be done about each job; those that are ours are kept from other processes until `free`."""
        if self._ledger is None or self._folder is None:
            return ["ours"] * len(keys)
        states: list[State] = []
        for key in keys:
            entry = self._ledger.find(key)
            states.append(entry or ("ours" if self._folder.locks.claim(key) else "theirs"))
        if "ours" in states:
            # Another may have had a job, and finished it, between the last look and the claim.
            with self._folder.locks.writing():
                self._ledger.refresh()
            for place, key in enumerate(keys):
                if states[place] == "ours" and (entry := self._ledger.find(key)):
                    self._folder.locks.free(key)
                    states[place] = entry
        return states

    def find(self, key: str) -> Entry | None:
        """What is there of a page of the grid."""
        return self._ledger.find(key) if self._ledger else None

    def name(self, key: str) -> str | None:
        """The name, relative to the output folder, that a job's file had, where it is to be drawn again."""
        return self._ledger.name(key) if self._ledger else None
