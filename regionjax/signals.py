"""Stopping politely: Ctrl-C and SIGTERM ask for one last checkpoint; asking again does not wait."""

import contextlib
import signal

import jax
from jax.experimental import multihost_utils

from regionjax.journal import log


class Stopped(Exception):
    """Training was asked to stop and has saved its last checkpoint.

    Attributes:
      signal: signal.Signals that asked.
      step: of the last checkpoint.
    """

    def __init__(self, asked_by, step):
        super().__init__(f"stopped by {asked_by.name} after step {step}; the checkpoint is saved")
        self.signal, self.step = asked_by, step


class Listener:
    """Notes the first signal; see `listening`.

    Attributes:
      noted: signal.Signals that this process received, or None.
    """

    def __init__(self):
        self.noted = None

    def asked(self, step):
        """The signal that asked to stop after `step`, or None. All processes get the same answer.

        The signal reaches processes at different moments, so with several of them JAX's own
        preemption notice decides on the step; it listens to SIGTERM.
        """
        if jax.process_count() > 1:
            reached = multihost_utils.reached_preemption_sync_point(step)
            return signal.SIGTERM if reached else None
        return self.noted

    def _note(self, number, frame):
        self.noted = signal.Signals(number)
        log.warning(
            "%s: one more step and one last checkpoint; again stops at once", self.noted.name
        )
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def listening():
    """While inside, SIGINT and SIGTERM are noted by the Listener instead of ending the process."""
    listener = Listener()
    if jax.process_count() > 1:
        yield listener
        return
    before = {each: signal.signal(each, listener._note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield listener
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
