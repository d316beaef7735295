"""What a run says: the story on the console, every detail in its `log.txt`."""

import contextlib
import logging
import sys

from tqdm import tqdm

log = logging.getLogger("regionjax")
log.propagate = False  # absl would print each line a second time
log.setLevel(logging.DEBUG)


class _AboveTheBar(logging.Handler):
    """Prints lines so that a progress bar stays below them."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stderr)


def to_console():
    """From now on, messages from INFO upwards are printed."""
    log.addHandler(_AboveTheBar(logging.INFO))


@contextlib.contextmanager
def to_file(path):
    """While inside, our messages of all levels and everybody's warnings are added to `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.name == log.name or record.levelno >= logging.WARNING)
    loggers = (log, logging.getLogger("absl"))
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        try:
            handler.close()
        except OSError as error:  # a full disk; what brought us here matters more
            log.warning("%s is incomplete: %s", path, error)
