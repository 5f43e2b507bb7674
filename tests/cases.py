"""Provide a decorator for a property that holds for each of many names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

Check = Callable[[str], None]


def for_each(
    names: Iterable[str], *, slow: Iterable[str] = ()
) -> Callable[[Check], Callable[..., None]]:
    """Turn a test of one name into one case that checks all and reports each name that fails.

    `slow` are the names of a second case, which only `make slow` runs.
    """
    cases = [pytest.param(list(names), id="fast")]
    cases += [
        pytest.param(found, id="slow", marks=pytest.mark.slow) for found in [list(slow)] if found
    ]

    def decorate(check: Check) -> Callable[..., None]:
        @pytest.mark.parametrize("names", cases)
        def test(names: list[str]) -> None:
            failures = []
            for name in names:
                try:
                    check(name)
                except Exception as error:
                    failures.append(f"{name}: {type(error).__name__}: {error}")
            assert not failures, "\n".join(failures)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
