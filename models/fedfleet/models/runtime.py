"""Whichever LiteRT runtime is installed, behind one function."""

from __future__ import annotations

from typing import Any

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter

from fedfleet.wire.errors import ProgramError


def interpreter(program: bytes, threads: int = 1) -> Any:
    """A LiteRT interpreter over the bytes of a .tflite file."""
    try:
        return Interpreter(model_content=program, num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise ProgramError(f"the LiteRT runtime cannot load the program: {str(error).splitlines()[0]}") from error
