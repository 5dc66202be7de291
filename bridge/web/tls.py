"""Where a front may listen, and with which certificate: beyond this machine only with TLS, its own or that of a proxy before it."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from bridge.config import HttpSpec
from mesh.errors import ConfigError
from mesh.identity.tls import Certificates, certificate_at
from mesh.link.address import is_loopback
from mesh.link.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Place:
    """`names` are those of the certificate: requests may be for them. `tls` None: plain text."""

    host: str
    tls: ServerTls | None
    names: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """Of IP."""
        return ipaddress.ip_address(self.host).version

    def url(self, port: int) -> str:
        """For who is on this machine, where every address is listened on."""
        address = ipaddress.ip_address(self.host)
        host = ("::1" if address.version == 6 else "127.0.0.1") if address.is_unspecified else self.host
        return f"{'http' if self.tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"


def place_of(spec: HttpSpec, state_dir: Path) -> Place:
    """Raises ConfigError where others would reach plain text, or there is no certificate."""
    host = "127.0.0.1" if spec.host == "localhost" else spec.host.strip("[]")
    beyond = not is_loopback(host)
    if spec.tls is False:
        if beyond and not spec.behind_proxy:
            raise ConfigError(
                f"HTTP is not served on {host} without TLS: tokens and calls could be read on the way",
                hint="`mesh auth tls --host NAME` makes a certificate, and `tls = true` in [http] or --tls takes it. "
                "Where a proxy before it has TLS: --behind-proxy.",
            )
        return Place(host, None)
    if spec.tls is not True:
        found, files = certificate_at(spec.tls.cert), ServerTls(spec.tls.cert, spec.tls.key, spec.tls.client_ca)
    else:
        certificates = Certificates(state_dir)
        made = certificates.renew_server()
        if made is None:
            raise ConfigError(
                f"HTTP with TLS: there is no certificate in {certificates.path}", hint="`mesh auth tls --host NAME` makes one"
            )
        found, files = made, ServerTls(made.path, certificates.server_key)
    if found.expired:
        raise ConfigError(f"HTTP with TLS: {found.path} has expired", hint="`mesh auth tls` makes a new one")
    return Place(host, files, tuple(f"[{name}]" if ":" in name else name for name in found.names))
