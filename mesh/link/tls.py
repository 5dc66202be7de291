"""TLS at both ends: what a listener shows, and what a client trusts. The certificates come from `mesh auth tls` (mesh/identity/tls.py) or
from any other authority."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The files of a listener. With `client_ca` it asks for certificates, and takes those of that authority alone."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError where a file cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise _unusable(error, self.cert, self.key, self.client_ca) from None
        return context


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a client trusts: the authority in `ca`, or those that this machine trusts. `cert` is its own certificate with its key, one file,
    for a server that asks for one."""

    ca: Path | None = None
    cert: Path | None = None

    def context(self) -> ssl.SSLContext:
        """It checks the server's name, always. Raises ConfigError where a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(error, self.ca, self.cert) from None
        return context


def _unusable(error: OSError, *files: Path | None) -> ConfigError:
    names = ", ".join(str(file) for file in files if file is not None)
    why = getattr(error, "reason", None) or error.strerror or str(error)
    return ConfigError(f"TLS cannot be set up with {names}: {why}", hint="`mesh auth tls` makes certificates and keys that go together")
