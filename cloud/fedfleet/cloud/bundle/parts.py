"""Where the pieces of a bundle lie: beside the source, or in the installed package, which carries them along."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path

from fedfleet.wire.errors import SettingsError

SCRIPTS = {"install.sh": 0o755, "launch": 0o755, "bundle.py": 0o644, "fedfleet-agent.service": 0o644}
ROOMS = ("wire", "edge")
CARRIED = Path(__file__).parent / "board"  # pyproject.toml puts them there in a wheel
SOURCE = Path(__file__).parents[4] / "edge"


def script(name: str) -> Path:
    """Return the path of one of SCRIPTS. Raises SettingsError."""
    return _there(CARRIED / name, SOURCE / "install" / name)


def lock(name: str) -> Path:
    """Return the path of a lock of the device's packages. Raises SettingsError."""
    return _there(CARRIED / name, SOURCE / name)


def room(name: str) -> Path:
    """Return the folder of one of ROOMS; nothing in it is imported. Raises SettingsError."""
    spec = find_spec(f"fedfleet.{name}")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(f"fedfleet.{name} is not installed here: install fedfleet again")
    return Path(next(iter(spec.submodule_search_locations)))


def version() -> str:
    """The version of fedfleet that is installed. Raises SettingsError."""
    try:
        return version_of("fedfleet")
    except PackageNotFoundError:
        raise SettingsError("fedfleet is not installed here, so its version is unknown: pip install it") from None


def _there(*places: Path) -> Path:
    for place in places:
        if place.is_file():
            return place
    raise SettingsError(f"{places[0]} is missing: install fedfleet again")
