"""Any encoder's state as a flat tuple of tensors with the batch axis first, and back.

An encoder's state is a dataclass, list or tuple of tensors, nested as it likes. Where the batch axis is shows from two
states of different batches: it is the one axis that differs.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    template: Any  # a state at the start, of one stream
    axes: tuple[int, ...]  # of the batch, for each tensor

    def flat(self, state: Any) -> tuple[Tensor, ...]:
        return tuple(leaf.movedim(axis, 0) for leaf, axis in zip(_leaves(state), self.axes, strict=True))

    def tree(self, tensors: Sequence[Tensor]) -> Any:
        back = (tensor.movedim(0, axis) for tensor, axis in zip(tensors, self.axes, strict=True))
        return _rebuilt(self.template, back)


def layout_of(init_state: Callable[[int], Any]) -> Layout:
    one, two = init_state(1), init_state(2)
    axes = []
    for a, b in zip(_leaves(one), _leaves(two), strict=True):
        differing = [axis for axis in range(a.ndim) if a.shape[axis] != b.shape[axis]]
        assert len(differing) == 1, f"a state of shape {tuple(a.shape)} has no batch axis"
        axes.append(differing[0])
    return Layout(one, tuple(axes))


def _leaves(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif dataclasses.is_dataclass(state):
        for field in dataclasses.fields(state):
            yield from _leaves(getattr(state, field.name))
    else:
        for part in state:
            yield from _leaves(part)


def _rebuilt(template: Any, leaves: Iterator[Tensor]) -> Any:
    if isinstance(template, Tensor):
        return next(leaves)
    if dataclasses.is_dataclass(template) and not isinstance(template, type):
        fields = [field.name for field in dataclasses.fields(template)]
        return dataclasses.replace(template, **{name: _rebuilt(getattr(template, name), leaves) for name in fields})
    return type(template)(_rebuilt(part, leaves) for part in template)
