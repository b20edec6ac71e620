"""What proves who asks: a token, or an X.509 proxy with the attributes of a VO.

Everything is checked here before any service is asked, since services answer an expired proxy
with anything from a TLS alert to an empty list. No message holds the path of a proxy.
"""

import base64
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asn1crypto import cms, core
from cryptography import x509

from looseleaf.das.problems import NoCredential

VO = "cms"
VOMS_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
FQAN_ATTRIBUTE = "1.3.6.1.4.1.8005.100.100.4"
# enough to finish what is asked for now
NEEDED = timedelta(minutes=10)
MAKE_ONE = "voms-proxy-init -voms cms -rfc -valid 192:00"
CERTIFICATES = (
    "/etc/grid-security/certificates",
    "/cvmfs/grid.cern.ch/etc/grid-security/certificates",
)


class _Attributes(core.SequenceOf):
    _child_spec = cms.AttributeCertificateV2


class _AttributeSets(core.SequenceOf):
    _child_spec = _Attributes


@dataclass(frozen=True)
class Credential:
    """A token, or the path of a proxy; neither shows in a repr or a traceback."""

    token: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)

    def without_secrets(self, text: str) -> str:
        """What another program said, with the proxy's path and the token left out."""
        for secret, shown in ((self.proxy, "(the proxy)"), (self.token, "(the token)")):
            text = text.replace(secret, shown) if secret else text
        return text


@dataclass(frozen=True)
class Proxy:
    """What a proxy says of itself: until when each part of it holds, and the VO's groups."""

    expires: datetime
    attributes_expire: datetime | None
    groups: tuple[str, ...]

    def belongs_to(self, vo: str) -> bool:
        """Whether one of the groups is of a VO."""
        return any(group.strip("/").split("/")[0] == vo for group in self.groups)


def read_proxy(pem: bytes) -> Proxy:
    """The lifetime of a proxy's whole chain, and the VOMS attributes in it.

    Raises ValueError if it isn't a chain of certificates.
    """
    chain = x509.load_pem_x509_certificates(pem)
    groups: list[str] = []
    ends: list[datetime] = []
    for certificate in chain:
        for attribute in _voms_attributes(certificate):
            info = attribute["ac_info"]
            ends.append(info["att_cert_validity_period"]["not_after_time"].native)
            groups += _groups(info["attributes"])
    return Proxy(
        expires=min(certificate.not_valid_after_utc for certificate in chain),
        attributes_expire=min(ends, default=None),
        groups=tuple(groups),
    )


def _voms_attributes(certificate: x509.Certificate) -> list[cms.AttributeCertificateV2]:
    return [
        attribute
        for extension in certificate.extensions
        if extension.oid == VOMS_EXTENSION
        and isinstance(extension.value, x509.UnrecognizedExtension)
        for attributes in _AttributeSets.load(extension.value.value)
        for attribute in attributes
    ]


def _groups(attributes: cms.AttCertAttributes) -> list[str]:
    """The groups and roles (/cms/Role=NULL/...) among the attributes of a VOMS certificate."""
    return [
        name.native.decode()
        for attribute in attributes
        if attribute["type"].dotted == FQAN_ATTRIBUTE
        for value in attribute["values"]
        for name in cms.IetfAttrSyntax.load(value.dump())["values"]
    ]


def credential(
    environment: Mapping[str, str] = os.environ,
    needed: timedelta = NEEDED,
    tokens: bool = True,
) -> Credential:
    """The token or proxy that the environment names, checked.

    Looked for in this order: BEARER_TOKEN, BEARER_TOKEN_FILE (both where `tokens` are of use),
    X509_USER_PROXY, /tmp/x509up_u<uid>.

    Raises `NoCredential` saying what is the matter and what to type.
    """
    token = _token(environment) if tokens else None
    if token is not None:
        _check_token(token)
        return Credential(token=token)
    named = "X509_USER_PROXY" in environment
    where = "the proxy that X509_USER_PROXY names" if named else "the proxy in its usual place"
    path = Path(environment.get("X509_USER_PROXY", f"/tmp/x509up_u{os.getuid()}"))
    try:
        pem = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as problem:
        hint = " (or unset X509_USER_PROXY)" if named else ""
        raise NoCredential(
            f"no proxy: {where} can't be read ({problem.strerror}); type: {MAKE_ONE}{hint}"
        ) from None
    if mode & 0o077:
        raise NoCredential(
            f"{where} can be read by others, and services refuse such; type: "
            + ('chmod 600 "$X509_USER_PROXY"' if named else 'chmod 600 "/tmp/x509up_u$(id -u)"')
        )
    try:
        proxy = read_proxy(pem)
        # the private key too has to be there and to belong to the first certificate
        ssl.create_default_context().load_cert_chain(path, password="")
    except (ValueError, TypeError, ssl.SSLError):
        raise NoCredential(f"{where} is damaged, or not a proxy at all; type: {MAKE_ONE}") from None
    _check_proxy(proxy, where, needed)
    return Credential(proxy=str(path))


def _check_proxy(proxy: Proxy, where: str, needed: timedelta) -> None:
    now = datetime.now(UTC)
    if not proxy.belongs_to(VO):
        has = ", ".join(proxy.groups) or "no VO"
        raise NoCredential(f"{where} belongs to {has}, not to the VO {VO}; type: {MAKE_ONE}")
    attributes = f"the VOMS attributes of {where}"
    for what, end in ((where, proxy.expires), (attributes, proxy.attributes_expire)):
        if end is None or end - now >= needed:
            continue
        if end <= now:
            ended = f"expired {_hours(now - end)} ago"
        else:
            ended = f"will expire in {_hours(end - now)}, {_hours(needed)} are needed"
        raise NoCredential(f"{what} {ended}; type: {MAKE_ONE}")


def _hours(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _token(environment: Mapping[str, str]) -> str | None:
    named = next((n for n in ("BEARER_TOKEN", "BEARER_TOKEN_FILE") if environment.get(n)), None)
    if named is None:
        return None
    token = environment[named]
    if named == "BEARER_TOKEN_FILE":
        try:
            token = Path(token).read_text(errors="replace")
        except OSError as problem:
            raise NoCredential(
                f"no token: the file that BEARER_TOKEN_FILE names can't be read "
                f"({problem.strerror}); get a new one, or unset BEARER_TOKEN_FILE to use a proxy"
            ) from None
    token = token.strip()
    # whatever else the file is, it must not go out as a header, nor into a message
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise NoCredential(
            f"{named} doesn't give a token (one word of letters, digits and -._~+/=); get a new "
            f"one, or unset {named} to use a proxy"
        )
    return token


def _check_token(token: str) -> None:
    """Refuse a token that says that it has expired; the rest is for the service to judge."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        end = datetime.fromtimestamp(claims["exp"], UTC)
    except (IndexError, ValueError, KeyError, TypeError, OverflowError):
        return
    if end <= datetime.now(UTC):
        raise NoCredential(
            f"the token expired {_hours(datetime.now(UTC) - end)} ago; get a new one, or unset "
            "BEARER_TOKEN and BEARER_TOKEN_FILE to use a proxy"
        )


def certificates(environment: Mapping[str, str] = os.environ) -> str | None:
    """The folder of the grid's authorities: X509_CERT_DIR or a usual place; None: the system's."""
    named = environment.get("X509_CERT_DIR")
    if named:
        return named
    return next((path for path in CERTIFICATES if Path(path).is_dir()), None)
