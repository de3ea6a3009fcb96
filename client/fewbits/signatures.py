"""What `help` and editors show of the clients' methods: the parameters of the operations behind them."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, get_args, get_origin

from fewbits.effects import Found

F = TypeVar("F", bound=Callable[..., Any])
Shown = type[Awaitable[Any]] | type[Iterator[Any]] | type[AsyncIterator[Any]] | None
SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)


def like(call: Callable[..., Any], shown: Shown = None) -> Callable[[F], F]:
    """Give a method the name, the docstring and the parameters of an operation.

    It answers what the operation returns or finds; with `shown`, an awaitable or an iterator of that.
    """

    def dress(method: F) -> F:
        dressed = wraps(call)(method)
        known = inspect.signature(call)
        answer: Any = _answer(known.return_annotation)
        dressed.__dict__["__signature__"] = known.replace(
            parameters=[SELF, *known.parameters.values()],
            return_annotation=answer if shown is None else shown[answer],  # type: ignore[index]
        )
        return dressed  # type: ignore[return-value]

    return dress


def _answer(returned: object) -> object:
    """What comes of a generator of effects: the items that it finds, else what it returns."""
    effects, _, result = get_args(returned)
    found = next((effect for effect in get_args(effects) if get_origin(effect) is Found), None)
    return result if found is None else get_args(found)[0]
