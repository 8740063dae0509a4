"""The door to projections: `from evsrc.projections import DeclarativeProjection`."""

from .facade.handlers import get_handled_event_type, handles, is_event_handler
from .facade.projections import DeclarativeProjection, Projection

__all__ = [
    "DeclarativeProjection",
    "Projection",
    "get_handled_event_type",
    "handles",
    "is_event_handler",
]
