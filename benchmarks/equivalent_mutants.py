"""Automatic mutants that no check can kill because they mean the same, each with the reason.

A mutant is named by its module and the text of the change (`Change.identity`), so that the table outlives moved lines.
"""

from __future__ import annotations

EQUIVALENT: dict[str, str] = {}
