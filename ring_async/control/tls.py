"""HTTPS of the control API: the certificate it serves with, and clients that trust that certificate alone.

Owns: loading and checking. The certificate itself travels to clients in `endpoints.json`, beside the token, so any
certificate will do, a self-signed one too: a client that holds the very certificate needs no authority and no name.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from ring_async.config.schema import ControlSection
from ring_async.errors import ConfigError

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def read_certificate(control: ControlSection) -> str:
    """The server's own certificate (PEM) out of `control.tls_cert`; empty where the API speaks plain HTTP.

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
    """A client's context that accepts the server with this certificate (PEM) and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate is known; what it says of itself adds nothing
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context
