"""Strict YAML to frozen dataclasses: unknown keys and wrong types are errors that name the nearest right one."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

FOLDER = Path(__file__).parent
Config = TypeVar("Config")
TAKES = {int: "a whole number", str: "text", bool: "true or false", dict: "keys with values"}


def load(kind: type[Config], name: str, folder: str, overrides: list[str] | None = None) -> Config:
    """The config `name`: a YAML file by path, or by name from configs/<folder>/.

    `overrides` are settings as they are typed, `key.sub=value`, the value in YAML. Raises ValueError for anything that
    does not fit, with the file or the setting that it comes from.
    """
    path = _find(name, folder)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ValueError(f"{path}: not YAML: {' '.join(str(err).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys with values, found {values!r}")
    for override in overrides or []:
        _override(values, override)
    return _build(kind, values, _Place(str(path), tuple(overrides or ())))


def names(folder: str) -> list[str]:
    return sorted(p.stem for p in (FOLDER / folder).glob("*.yaml"))


def _find(name: str, folder: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"{name}: no such config file")
        return Path(name)
    path = FOLDER / folder / f"{name}.yaml"
    if not path.is_file():
        known = names(folder)
        raise ValueError(f"no config called {name}{_meant(name, known)}; there are {', '.join(known)}")
    return path


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, and where it comes from."""

    file: str
    settings: tuple[str, ...] = ()
    key: str = ""  # "model.joint", "" for all values

    def of(self, name: str) -> "_Place":
        return replace(self, key=f"{self.key}.{name}" if self.key else name)

    @property
    def source(self) -> str:
        for setting in reversed(self.settings):
            given = setting.partition("=")[0]
            if f"{self.key}.".startswith(f"{given}.") or f"{given}.".startswith(f"{self.key}."):
                return f"setting {setting}"
        return self.file

    def __str__(self) -> str:
        return f"{self.source}: {self.key}" if self.key else self.file

    def fault(self, name: str, text: str) -> ValueError:
        """For a key that is missing here, or should be."""
        return ValueError(f"{self.of(name).source}: {self.key}{': ' * bool(self.key)}{text}")


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"{override}: a setting is written key.sub=value")
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"{override}: {part} is a value and has nothing below it")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{override}: {text!r} is not a YAML value") from None


def build(kind: type[Config], values: Any, where: str) -> Config:
    """A dataclass from plain values, nested dataclasses included. Raises ValueError."""
    return _build(kind, values, _Place(where))


def _build(kind: type[Config], values: Any, where: _Place) -> Config:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected keys with values, found {values!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise where.fault(str(key), f"unknown key {key}{_nearest(str(key), kind)}")
    for key, field in known.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and key not in values:
            raise where.fault(key, f"{key} is missing")
    return kind(**{key: _convert(hints[key], value, where.of(key)) for key, value in values.items()})


def _nearest(name: str, kind: type) -> str:
    """The key that is spelt like it, also one further down: `lr` is `optim.lr`."""
    keys: dict[str, list[str]] = {}
    for path in _paths(kind):
        keys.setdefault(path.rpartition(".")[2], []).append(path)
    if close := difflib.get_close_matches(name, list(keys), n=1, cutoff=0.5):
        return f" (did you mean {' or '.join(keys[close[0]])}?)"
    return f" (known: {', '.join(f.name for f in fields(kind))})"


def _paths(kind: type) -> list[str]:
    """The keys of a config, and behind them those of the configs in it."""
    hints = typing.get_type_hints(kind)
    inside = [
        f"{name}.{path}"
        for name, hint in hints.items()
        for part in (hint, *(typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else ()))
        if is_dataclass(part)
        for path in _paths(typing.cast(type, part))
    ]
    return [*hints, *inside]


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _convert(hint: Any, value: Any, where: _Place) -> Any:
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _union(hint, value, where)
    if origin is typing.Literal:
        return _literal(hint, value, where)
    if origin is tuple:
        return _tuple(hint, value, where)
    if hint is float:
        return _number(value, where)
    hint = origin or hint  # dict[str, Any] is a dict
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} is {value!r}; it takes {TAKES[hint]}")
    return value


def _union(hint: Any, value: Any, where: _Place) -> Any:
    kinds = typing.get_args(hint)
    if value is None and type(None) in kinds:
        return None
    return _convert(next(k for k in kinds if k is not type(None)), value, where)


def _literal(hint: Any, value: Any, where: _Place) -> Any:
    choices = typing.get_args(hint)
    if value not in choices:
        raise ValueError(f"{where} is {value!r}; it can be {', '.join(map(str, choices))}")
    return value


def _tuple(hint: Any, value: Any, where: _Place) -> tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is {value!r}; it takes a list such as [1, 2]")
    element, *rest = typing.get_args(hint)
    if rest != [Ellipsis] and len(value) != 1 + len(rest):
        raise ValueError(f"{where} is {value!r}; it takes {1 + len(rest)} values")
    return tuple(_convert(element, v, where) for v in value)


def _number(value: Any, where: _Place) -> float:
    if isinstance(value, str):  # YAML reads 5e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is {value!r}; it takes a number")
    return float(value)


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In which values two configs, or whatever else is made of such, differ; keys joined by dots."""
    before, after = _flat(then), _flat(now)
    differing = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    return [f"{key} {before.get(key, 'not set')} then, {after.get(key, 'not set')} now" for key in differing]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; sequences as lists, so that JSON's and ours compare."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
