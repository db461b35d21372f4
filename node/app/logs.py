"""Log lines on stderr: stdout belongs to answers."""

import logging
import os
import sys

from node.errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
ENVIRON = "GPUNODE_LOG"


def load() -> None:
    """Import structlog without `rich`, which it takes along to draw tracebacks that we never do.

    To be called before anything else imports it: half of its time, which a command waits for.
    """
    if "structlog" in sys.modules or "rich.console" in sys.modules:
        return
    sys.modules["rich.console"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich.console"]


def configure(default: str) -> None:
    """Log from a level on: that of GPUNODE_LOG, or the command's own default.

    Raises:
        ConfigError: There is no such level.
    """
    import structlog

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
