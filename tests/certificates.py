"""A certificate authority of one's own, made with the `openssl` command: good, expired, early and foreign ones."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
DAY = timedelta(days=1)
SETTINGS = """
[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


def openssl(*arguments: str | Path) -> None:
    ended = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


class Authority:
    """Signs certificates into its folder; `ca` is its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.ca = folder, folder / "ca.pem"
        (folder / "index").write_text("")
        (folder / "serial").write_text("01\n")
        (folder / "ca.conf").write_text(SETTINGS.format(folder=folder))
        names = ("-subj", f"/CN=authority {folder.name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *curve, *names, "-days", "30", "-keyout", folder / "ca.key", "-out", self.ca)

    def sign(
        self, name: str, *, alternative: str = "", begins: timedelta = -DAY, ends: timedelta = DAY
    ) -> tuple[Path, Path]:
        """Return certificate and key for `name`, valid from `begins` to `ends` from now."""
        number = len(list(self.folder.glob("*.key")))
        certificate, key, request = (self.folder / f"{name}-{number}.{kind}" for kind in ("pem", "key", "csr"))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        more = ("-addext", f"subjectAltName={alternative}") if alternative else ()
        openssl("req", "-new", *curve, "-subj", f"/CN={name}", *more, "-keyout", key, "-out", request)
        today = datetime.now(UTC)
        first, last = ((today + shift).strftime("%Y%m%d%H%M%SZ") for shift in (begins, ends))
        dates = ("-startdate", first, "-enddate", last)
        where = ("-cert", self.ca, "-keyfile", self.folder / "ca.key", "-in", request, "-out", certificate)
        openssl("ca", "-batch", "-notext", "-config", self.folder / "ca.conf", *dates, *where)
        return certificate, key
