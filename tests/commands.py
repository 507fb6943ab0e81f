"""The operator's commands, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from fedfleet.cli.main import app
from fedfleet.wire.errors import FedfleetError


def run(*arguments: str) -> str:
    """What `fedfleet` prints; its error, where it ends in one."""
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, FedfleetError):
        return f"refused: {result.exception}"
    assert result.exit_code == 0, result.output
    return result.stdout
