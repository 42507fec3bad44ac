"""Frozen dataclasses as pytrees.

register(cls)     the decorator; `static()` marks a field that is part of the structure
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**settings: Any) -> Any:
    """A field that is no array: part of the structure of the pytree, so it has to be hashable."""
    return dataclasses.field(metadata={"static": True}, **settings)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def register(cls: type[T]) -> type[T]:
    """Make of a class a frozen dataclass and a pytree of its fields.

    Unlike `jax.tree_util.register_dataclass`, it is rebuilt by JAX without its constructor, which may check
    what a user gives it: JAX puts tracers, derivatives or batches in the place of arrays.
    """
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(made)
    fixed = [field.name for field in fields if field.metadata.get("static")]
    leaves = [field.name for field in fields if not field.metadata.get("static")]

    def flatten(x):
        return tuple(getattr(x, name) for name in leaves), tuple(getattr(x, name) for name in fixed)

    def flatten_with_keys(x):
        children, structure = flatten(x)
        return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), children, strict=True)), structure

    def unflatten(structure, children):
        x = object.__new__(made)
        for name, value in zip(leaves + fixed, (*children, *structure), strict=True):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made
