"""`fedfleet`: the operator's command. Each verb parses, prints its first line, and only then loads what is heavy."""

from __future__ import annotations

import logging
import sys

import typer

from fedfleet.cli import (
    aggregate,
    backup,
    broker,
    bundle,
    compare,
    compile,  # noqa: A004 - the verb's name
    doctor,
    enrol,
    flash,
    fleet,
    model,
    pki,
    release,
    rollout,
    simulate,
    train,
)
from fedfleet.wire.errors import FedfleetError

app = typer.Typer(
    name="fedfleet",
    help="Train Keras models on a fleet of small boards. Raw data never leaves a device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("simulate", epilog=simulate.EXAMPLES)(simulate.simulate)
app.command("compile", epilog=compile.EXAMPLES)(compile.compile_model)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("aggregate", epilog=aggregate.EXAMPLES)(aggregate.aggregate)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("flash", epilog=flash.EXAMPLES)(flash.flash)
app.add_typer(fleet.app, name="fleet")
app.add_typer(model.app, name="model")
app.add_typer(pki.app, name="pki")
app.add_typer(enrol.app, name="enrol")
app.add_typer(broker.app, name="broker")
app.add_typer(release.app, name="release")
app.add_typer(rollout.app, name="rollout")
app.command("backup", epilog=backup.BACKUP_EXAMPLES)(backup.backup)
app.command("restore", epilog=backup.RESTORE_EXAMPLES)(backup.restore)
app.command("bundle", epilog=bundle.EXAMPLES)(bundle.bundle)


def main() -> None:
    """Run the command. Exits with 0, with 2 and one line for the user's mistakes, with 1 for ours, 130 on Ctrl-C."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        app()
    except FedfleetError as error:
        print(f"fedfleet: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
