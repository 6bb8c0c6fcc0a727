"""Throw-away certificates, made once per run."""

import subprocess
from pathlib import Path

MAKE_CERTS = Path(__file__).resolve().parents[2] / "tls" / "make-certs"


class Certs:
    def __init__(self, directory):
        self.directory = Path(directory)
        subprocess.run([str(MAKE_CERTS), str(directory)], check=True)

    def crt(self, name):
        return str(self.directory / f"{name}.crt")

    def key(self, name):
        return str(self.directory / f"{name}.key")

    @property
    def ca(self):
        return self.crt("ca")
