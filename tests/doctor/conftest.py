from __future__ import annotations

from pathlib import Path

import pytest
from certificates import Authority
from patients import Patient, healthy


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("doctor") / "authority")


@pytest.fixture
def patient(tmp_path: Path, authority: Authority) -> Patient:
    return healthy(tmp_path, authority)
