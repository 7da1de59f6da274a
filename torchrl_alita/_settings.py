"""Options as values: frozen dataclasses whose values are checked and plain."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = [
    "FLAGS",
    "Settings",
    "differences",
    "field_docs",
    "parse_option",
    "plain_value",
    "type_hints",
]


def type_hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, inherited ones included."""
    return _type_hints(cls)


_type_hints = cache(get_type_hints)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class of options that are declared once, each with its docstring.

    A class below it is a frozen dataclass with keyword-only fields. It may give an inherited
    field another default by plain assignment, without the type and the docstring again::

        @dataclass(frozen=True, kw_only=True)
        class Slow(Fast):
            gamma = 0.95

    Numbers of NumPy and torch become numbers of Python, lists become tuples. A value that is
    not of its field's type is refused.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for a name that is not among a field's choices.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        inherited = {
            name: hint
            for base in reversed(cls.__mro__[1:])
            if is_dataclass(base)
            for name, hint in type_hints(base).items()
        }
        own = inspect.get_annotations(cls)
        for name, value in cls.__dict__.items():
            public = not name.startswith("_") and not _is_method(value)
            if public and name not in own and name not in inherited:
                raise TypeError(f"{cls.__name__} sets {name}, which no class above it has.")
        # With its type here, the dataclass takes the default that Python finds for the name.
        cls.__annotations__ = inherited | own

    def __post_init__(self):
        hints = type_hints(type(self))
        for field in fields(self):
            value = plain_value(getattr(self, field.name))
            object.__setattr__(self, field.name, _fitting(field.name, value, hints[field.name]))


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))


def plain_value(value: Any) -> Any:
    """Numbers and arrays of NumPy and torch, and lists, as Python's numbers and tuples.

    Args:
        value: of an option.

    Returns:
        The same value, if it is none of these.

    Examples:
        >>> import torch
        >>> plain_value([torch.tensor(3), 0.5])
        (3, 0.5)
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain_value, value)) if isinstance(value, (list, tuple, range)) else value


def _fitting(name: str, value: Any, hint: Any) -> Any:
    """The value, as its type has it: whole numbers become floats where a float is asked for."""
    for accepted in _alternatives(hint):
        fits, converted = _fit(value, accepted)
        if fits:
            return converted
    choices = [c for h in _alternatives(hint) if get_origin(h) is Literal for c in get_args(h)]
    if isinstance(value, str) and choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
    raise TypeError(f"{name} must be {_words(hint)}, got {value!r}.")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    if hint is Any:
        return True, value
    origin = get_origin(hint)
    if origin is Literal:
        return any(
            value is c or (type(value) is type(c) and value == c) for c in get_args(hint)
        ), value
    if origin is tuple:
        return _fit_tuple(value, get_args(hint))
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number, float(value) if number else value
    if hint is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole, value
    if hint is Path:
        return isinstance(value, (str, Path)), Path(value) if isinstance(value, str) else value
    return not isinstance(hint, type) or isinstance(value, hint), value


def _fit_tuple(value: Any, members: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, tuple):
        return False, value
    hints = members[:1] * len(value) if members[1:] == (...,) else members
    if len(hints) != len(value):
        return False, value
    try:
        return True, tuple(_fitting("", v, h) for v, h in zip(value, hints, strict=True))
    except (TypeError, ValueError):
        return False, value


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def _words(hint: Any) -> str:
    """A type in words, for an error."""
    accepted = _alternatives(hint)
    return " or ".join(_word(one) for one in accepted if one is not int or float not in accepted)


def _word(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        members = get_args(hint)
        if members[1:] != (...,):
            return " and ".join(map(_words, members))
        return f"a sequence, each {_words(members[0])}"
    if hint is type(None):
        return "None"
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, inherited ones included, each in one line."""
    return _field_docs(cls)


@cache
def _field_docs(cls: type) -> dict[str, str]:
    docs: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        try:
            (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # made where there is no source
            continue
        body = parsed.body if isinstance(parsed, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=doc)
                ):
                    docs[name] = " ".join(str(doc).split())
    return docs


def parse_option(name: str, text: str | list[str], hint: Any) -> Any:
    """The value that a text means where a type is asked for.

    Args:
        name: of the option, for an error.
        text: as a command line has it, or several of a sequence.
        hint: the type of the option.

    Raises:
        TypeError: if no value of the type is written so.
        ValueError: if it is not among the choices.

    Examples:
        >>> parse_option("num_cells", "[64, 64]", tuple[int, ...])
        (64, 64)
        >>> parse_option("bonuses", ["novelty", "0.5"], tuple[tuple[str, float], ...])
        (('novelty', 0.5),)
        >>> parse_option("influencers", ["all"], int | tuple[int, ...] | Literal["all"])
        'all'
    """
    hints = _alternatives(hint)
    several = any(get_origin(accepted) is tuple for accepted in hints)
    texts = [text] if isinstance(text, str) else text
    if several and len(texts) == 1 and texts[0].startswith("["):
        try:
            return _fitting(name, plain_value(json.loads(texts[0])), hint)
        except json.JSONDecodeError:
            raise ValueError(f"{name} must be {_words(hint)}, got {texts[0]!r}.") from None
    # A text may have commas of its own.
    numbers = any(get_origin(h) is tuple and get_args(h)[0] is not str for h in hints)
    if numbers and len(texts) == 1 and "," in texts[0]:
        texts = [part for part in texts[0].split(",") if part]
    if len(texts) == 1:
        for accepted in hints:
            value = _written(texts[0], accepted)
            if value is not _NOTHING:
                return value
    for accepted in hints:
        if get_origin(accepted) is tuple:
            try:
                return _written_tuple(name, texts, get_args(accepted)[0])
            except (TypeError, ValueError) as error:
                if len(hints) == 1:
                    raise
                said = " ".join(texts)
                raise ValueError(f"{name} must be {_words(hint)}, got {said!r}.") from error
    return _fitting(name, texts[0] if len(texts) == 1 else tuple(texts), hint)


def _written_tuple(name: str, texts: list[str], member: Any) -> tuple[Any, ...]:
    """Members one after the other; of those that are tuples themselves, their parts."""
    if [text.lower() for text in texts] == ["none"]:
        return ()
    parts = get_args(member) if get_origin(member) is tuple else ()
    if not parts:
        return tuple(parse_option(name, text, member) for text in texts)
    if len(texts) % len(parts):
        raise ValueError(
            f"{name} must be {_words(member)} after the other, got {' '.join(texts)!r}."
        )
    values = [parse_option(name, text, parts[i % len(parts)]) for i, text in enumerate(texts)]
    return tuple(tuple(values[i : i + len(parts)]) for i in range(0, len(values), len(parts)))


_NOTHING = object()
FLAGS = {"true": True, "false": False, "yes": True, "no": False}


def _written(text: str, hint: Any) -> Any:
    """The value of a type that is written so, or that there is none."""
    if hint is type(None):
        return None if text.lower() == "none" else _NOTHING
    if hint is bool:
        return FLAGS.get(text.lower(), _NOTHING)
    if get_origin(hint) is Literal:
        return next((choice for choice in get_args(hint) if str(choice) == text), _NOTHING)
    if hint in (int, float):
        try:
            return hint(text.replace("_", ""))
        except ValueError:
            return _NOTHING
    return hint(text) if hint in (str, Path) else _NOTHING


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of each name at which two mappings differ, None where one has none.

    Examples:
        >>> differences({"seed": 0, "gamma": 0.9}, {"seed": 1, "gamma": 0.9})
        {'seed': (0, 1)}
    """
    return {
        name: (first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    }
