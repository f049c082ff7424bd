"""HTTPS of the control API: the server's certificate, and clients that trust this certificate alone.

Owns: loading and checking the certificate. Clients get it from `endpoints.json`, beside the token. So a self-signed
certificate is enough: a client that holds the server's certificate needs no authority and checks no name.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from ring_async.config.schema import ControlSection
from ring_async.errors import ConfigError

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def read_certificate(control: ControlSection) -> str:
    """The server's certificate (PEM) from `control.tls_cert`; empty if the API serves plain HTTP.

    Raises:
        ConfigError: the files cannot be read, or do not belong together.
    """
    if not control.tls_cert:
        return ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(control.tls_cert, control.tls_key)
        found = _CERTIFICATE.search(Path(control.tls_cert).read_text())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"control.tls_cert, control.tls_key: {control.tls_cert}, {control.tls_key}: {error}; give a certificate "
            "and its key as PEM files"
        ) from error
    assert found is not None, "a chain was loaded from it"
    return found[0]


def trust_only(certificate: str) -> ssl.SSLContext:
    """A client's TLS context that accepts the server with this certificate (PEM) and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the client knows the certificate, so the name in it proves nothing more
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context
