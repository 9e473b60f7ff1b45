"""The log of the command line: records of the loggers `rmqkit.*` on standard error, in its format."""

from __future__ import annotations

import logging

from rmqkit.cli import output


class _LogHandler(logging.Handler):
    """Writes a record as text or as JSON; then without a traceback, whose text may hold anything."""

    def emit(self, record: logging.LogRecord) -> None:
        if output.logs_json():
            kind = record.exc_info[0] if record.exc_info else None
            fields = {"error": kind.__name__} if kind else {}
            output.log(record.levelname.lower(), record.getMessage(), record.name, **fields)
        else:
            output.error(self.format(record))


def write(*, steps: bool) -> None:
    """Write the warnings, or with `steps` everything."""
    handler = _LogHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("rmqkit")
    logger.handlers[:] = [handler]
    if steps:
        logger.setLevel(logging.DEBUG)
