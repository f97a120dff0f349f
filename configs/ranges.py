"""Which numbers a config takes, said in the same words everywhere. All raise ValueError, also for nan and inf."""

import math
from collections.abc import Callable


def at_least(least: int, where: str, config: object, *names: str) -> None:
    """`where` is how the config's values are called on a command line, with its dot: "optim."."""
    _check(lambda value: value >= least, f"{least} or more", where, config, names)


def above_0(where: str, config: object, *names: str) -> None:
    _check(lambda value: value > 0, "above 0", where, config, names)


def below_1(where: str, config: object, *names: str) -> None:
    _check(lambda value: 0 <= value < 1, "from 0 to below 1", where, config, names)


def _check(fits: Callable[[float], bool], what: str, where: str, config: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        if not (fits(value) and math.isfinite(value)):
            finite = "" if math.isfinite(value) else ", and finite"
            said = f"{value:g}" if isinstance(value, float) else value
            raise ValueError(f"{where}{name} is {said}; it must be {what}{finite}")
