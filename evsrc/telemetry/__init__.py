"""See appends, reads, decisions and deliveries as OpenTelemetry spans and metrics.

`from evsrc.telemetry import traced, traced_transact, traced_subscribe`; it needs the
extra `telemetry`. Each is made of the function that it stands for: what is not traced
costs nothing. No span, and no metric, holds what an event says, nor an error's text.
"""

from ..core.errors import MissingExtraError

try:
    from .delivery import traced_subscribe
    from .store import traced, traced_transact
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise MissingExtraError("evsrc.telemetry", "telemetry") from error

__all__ = ["traced", "traced_subscribe", "traced_transact"]
