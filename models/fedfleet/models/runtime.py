"""Whichever LiteRT runtime is installed, behind one function."""

from __future__ import annotations

from typing import Any

from fedfleet.wire.errors import ProgramError


def interpreter(program: bytes, threads: int = 1) -> Any:
    """A LiteRT interpreter over the bytes of a .tflite file."""
    try:
        return runtime()(model_content=program, num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise ProgramError(f"the LiteRT runtime cannot load the program: {str(error).splitlines()[0]}") from error


def runtime() -> Any:
    """Return the interpreter's class: TensorFlow's, which takes seconds to load, where there is no other."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            from tensorflow.lite.python.interpreter import Interpreter
    return Interpreter
