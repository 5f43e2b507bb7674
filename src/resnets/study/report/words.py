"""Numbers enter, words leave: the small change of the sentences under figures and claims.

The idea: a sentence says more than its numbers only through these words, and they follow the
interval: without one that is clear of zero nothing rises or falls.
"""

from __future__ import annotations

from collections.abc import Sequence

LITTLE_LEFT = 0.5
"""an error of the whole network beyond which its lesions say little"""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def and_(parts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def times(decades: float) -> str:
    """10 to the power of decades as a factor: 1.4, 320, 10⁷⁵."""
    if abs(decades) < 4:
        factor = 10**decades
        return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"
    return "10" + f"{decades:.0f}".translate(RAISED)
