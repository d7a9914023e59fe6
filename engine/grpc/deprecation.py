"""`deprecated`, for generated code (PEP 702): Python's own, from 3.13 on.

Type checkers know `typing_extensions` without its being installed; at run time a few lines do.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["deprecated"]

if sys.version_info >= (3, 13):
    from warnings import deprecated
elif TYPE_CHECKING:
    from typing_extensions import deprecated
else:

    def deprecated(message: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Calls of the function warn with a `DeprecationWarning` at the line of the caller."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def warned(*arguments: Any, **options: Any) -> Any:
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return function(*arguments, **options)

            return warned

        return decorate
