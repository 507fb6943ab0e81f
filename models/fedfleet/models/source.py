"""The user's file: `path.py:function` to a Keras model, or what else it makes.

Neither sys.path nor the working directory is touched.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import tensorflow as tf

from fedfleet.wire.errors import ModelError


def build(where: str) -> Any:
    """The Keras model that `function` of `path.py:function` returns; the function takes no arguments."""
    model = returned(where, "Keras model")
    if not isinstance(model, tf.keras.Model):
        path, _, name = where.rpartition(":")
        raise ModelError(f"{Path(path)}:{name} returned {type(model).__name__}; return a keras.Model")
    return model


def returned(where: str, what: str, given: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """What `function` of `path.py:function` returns, called with `given`; `what` it is to be is for people.

    Raises ModelError, also for whatever the user's code raises.
    """
    path, _, name = where.rpartition(":")
    if not path or not name.isidentifier():
        raise ModelError(f"{where!r} does not name a {what}; write it as my_model.py:build")
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; give the path of the Python file that builds the {what}")
    function = getattr(_module(file), name, None)
    if not callable(function):
        raise ModelError(f"{file}: has no function {name!r}; define def {name}() that returns a {what}")
    if wanted := [argument for argument in _arguments(function) if argument not in given]:
        raise ModelError(f"{file}: {name} wants {', '.join(wanted)}; define def {name}() that takes nothing")
    return _run(file, lambda: function(**given))


def _arguments(function: Callable[..., Any]) -> list[str]:
    """The arguments that a call has to give."""
    given = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return [argument.name for argument in found if argument.default is argument.empty and argument.kind not in given]


def _module(file: Path) -> ModuleType:
    """The file, executed as a module of its own, under a name that hides no other."""
    name = f"fedfleet_source_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ModelError(f"{file}: is not a Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    # dataclasses and pickles look their module up by name
    sys.modules[name] = module
    _run(file, lambda: loader.exec_module(module))
    return module


def _run(file: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns; whatever the user's code raises becomes a ModelError with its line."""
    try:
        return work()
    # the one place outside the top loops that catches everything: the user's code may raise anything
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise ModelError(f"{file}{_line(file, error)}: {type(error).__name__}: {_first(error)}") from error


def _line(file: Path, error: BaseException) -> str:
    """`:line` of the innermost frame in the user's file, if any."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}" if error.lineno else ""
    here = str(file.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == here]
    return f":{lines[-1]}" if lines else ""


def _first(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return next((line for line in text.splitlines() if line.strip()), "no message")
