"""One image of each kind for all tests of a run, and what goes onto them."""

from __future__ import annotations

from pathlib import Path

import cards
import pytest
from cards import Images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return an image by release and bits; it is not to be changed."""
    made = dict[tuple[str, int], Path]()

    def image(release: str = "bookworm", bits: int = 64) -> Path:
        if (release, bits) not in made:
            made[release, bits] = cards.image(tmp_path_factory.mktemp(f"made{len(made)}"), release, bits)
        return made[release, bits]

    return image


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings, a claim and a bundle for 64-bit Bookworm, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "pump-1.toml").write_text(cards.SETTINGS)
    cards.claim(tmp_path / "claim.pem")
    cards.bundle(tmp_path / "bundle")
    return tmp_path
