"""Test stores and domains: the conformance suite every store must pass."""

from .conformance import CODEC, Check, Fact, Note, store_checks

__all__ = ["CODEC", "Check", "Fact", "Note", "store_checks"]
