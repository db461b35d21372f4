"""Log lines on stderr: stdout belongs to answers."""

import logging
import os
import sys

import structlog

from node.errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
ENVIRON = "GPUNODE_LOG"


def configure(default: str) -> None:
    """Log from a level on: that of GPUNODE_LOG, or the command's own default.

    Raises:
        ConfigError: There is no such level.
    """
    name = os.environ.get(ENVIRON, default).lower()
    if name not in LEVELS:
        raise ConfigError(f"{ENVIRON}={name} is no level", hint=f"one of {', '.join(LEVELS)}")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[name]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # libp2p's own logging: what matters of it is logged again by its adapter.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
