"""From a config file to typed, strict settings.

A config is a Python file with `get_config(arg="")` that returns an `ml_collections.ConfigDict`.
Each part of the program owns a frozen dataclass; `build` turns a section of the config into it.
A key that the dataclass does not have is an error that names the nearest right one.
"""

import dataclasses
import difflib
import importlib.util
import pathlib
import types
import typing

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its full path."""


def build(cls, section, where):
    """Makes the frozen dataclass `cls` from a mapping.

    Args:
      cls: a dataclass; fields whose type is a dataclass (or `X | None`) are built recursively.
      section: a ConfigDict or dict with field names as keys.
      where: the path of the section, such as "config.model", for error messages.

    Raises:
      ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    values = dict(section.items())
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}.{key} is not a setting{nearest(key, fields)}")
    arguments = {}
    for name, field in fields.items():
        if name not in values:
            required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            if required:
                raise ConfigError(f"{where}.{name} is missing ({cls.__name__} needs it)")
            continue
        arguments[name] = _convert(hints[name], values[name], f"{where}.{name}")
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:  # the dataclass's own checks speak of its fields alone
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint, value, where):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    hint = next(option for option in options if option is not type(None))
    if isinstance(value, ConfigDict | dict):
        if dataclasses.is_dataclass(hint):
            return build(hint, value, where)
        return value.to_dict() if isinstance(value, ConfigDict) else dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, bool, str) and type(value) is not hint:
        raise ConfigError(
            f"{where} = {value!r} is a {type(value).__name__}, expected {hint.__name__}"
        )
    return _frozen(value)


def _frozen(value):
    """Lists to tuples, so that settings hash and cannot change under their owner."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def nearest(name, candidates):
    """A hint such as '; did you mean `depth`?', empty when nothing is near."""
    found = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.5)
    return (
        f"; did you mean `{found[0]}`?" if found else f"; known: {', '.join(map(str, candidates))}"
    )


def load(path):
    """Reads `configs/name.py` or `configs/name.py:arg` into a locked ConfigDict."""
    path, _, argument = str(path).partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        siblings = sorted(p.name for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise ConfigError(
            f"no config file {path}{nearest(file.name, siblings) if siblings else ''}"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument) if argument else module.get_config()
    return config.lock()
