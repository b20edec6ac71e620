"""VOMS proxies as `voms-proxy-fake` makes them, for machines without it: the same options."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asn1crypto import cms, core
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

FQANS, SETS_OF_ATTRIBUTES = "1.3.6.1.4.1.8005.100.100.4", "1.3.6.1.4.1.8005.100.100.5"
# RFC 3820: a proxy that may do all that its owner may
PROXY_INFO = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
)
KEY_USAGE = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=True,
    data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


class _Attributes(core.SequenceOf):
    _child_spec = cms.AttributeCertificateV2


class _Sets(core.SequenceOf):
    _child_spec = _Attributes


def _span(text: str) -> timedelta:
    """ "48:00" or "24", in hours."""
    hours, _, minutes = text.partition(":")
    return timedelta(hours=int(hours), minutes=int(minutes or 0))


def make_proxy(folder: Path, name: str, *options: str, vo: str) -> Path:
    """A proxy of user.pem with the attributes of a VO, signed by host.key.

    `options` are voms-proxy-fake's -hours, -vomslife, -pastproxy and -pastac, each with a span.
    """
    given = {key: _span(value) for key, value in zip(options[::2], options[1::2], strict=True)}
    now = datetime.now(UTC).replace(microsecond=0)
    life, none = given.get("-hours", timedelta(hours=12)), timedelta()
    begins = now - given.get("-pastproxy", none)
    user = x509.load_pem_x509_certificate((folder / "user.pem").read_bytes())
    user_key = _key(folder / "user.key")
    key = rsa.generate_private_key(65537, 2048)
    serial = x509.random_serial_number()
    subject = x509.Name([*user.subject, x509.NameAttribute(x509.NameOID.COMMON_NAME, str(serial))])
    attributes_begin = now - given.get("-pastac", none)
    attributes = _attributes(
        folder, user, vo, attributes_begin, attributes_begin + given.get("-vomslife", life)
    )
    proxy = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(user.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(begins + life)
        .add_extension(PROXY_INFO, critical=True)
        .add_extension(KEY_USAGE, critical=True)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(SETS_OF_ATTRIBUTES), attributes),
            critical=False,
        )
        .sign(user_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    path = folder / name
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(proxy.public_bytes(pem) + private + user.public_bytes(pem))
    return path


def _key(path: Path) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _attributes(
    folder: Path, user: x509.Certificate, vo: str, begins: datetime, ends: datetime
) -> bytes:
    """The extension that says which groups of a VO a user is in."""

    def names(name: x509.Name) -> list[asn1.GeneralName]:
        return [asn1.GeneralName("directory_name", asn1.Name.load(name.public_bytes()))]

    host = x509.load_pem_x509_certificate((folder / "host.pem").read_bytes())
    algorithm = {"algorithm": "sha256_rsa"}
    groups = cms.IetfAttrSyntax(
        {
            "policy_authority": [
                asn1.GeneralName("uniform_resource_identifier", f"{vo}://localhost:15002")
            ],
            "values": [cms.IetfAttrValue("octets", f"/{vo}/Role=NULL/Capability=NULL".encode())],
        }
    )
    # of an attribute that asn1crypto doesn't know
    values = cms.SetOfAny.load(cms.SetOfIetfAttrSyntax([groups]).dump())
    info = cms.AttributeCertificateInfoV2(
        {
            "version": "v2",
            "holder": {
                "base_certificate_id": {
                    "issuer": names(user.issuer),
                    "serial": user.serial_number,
                }
            },
            "issuer": cms.AttCertIssuer("v2_form", {"issuer_name": names(host.subject)}),
            "signature": algorithm,
            "serial_number": 1,
            "att_cert_validity_period": {"not_before_time": begins, "not_after_time": ends},
            "attributes": [{"type": FQANS, "values": values}],
        }
    )
    signature = _key(folder / "host.key").sign(info.dump(), padding.PKCS1v15(), hashes.SHA256())
    certificate = cms.AttributeCertificateV2(
        {"ac_info": info, "signature_algorithm": algorithm, "signature": signature}
    )
    return _Sets([_Attributes([certificate])]).dump()
