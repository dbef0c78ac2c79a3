"""Certificates for signatures of images: an authority, and a signer that it vouches for."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def make_certificates(
    folder: Path, kind: str = "P-256", lasts: timedelta = timedelta(days=3650)
) -> tuple[Path, Path, Path]:
    """Write a chain of certificates, its private key, and the certificate of the authority; all in PEM."""
    ca_key, key = KEYS["P-256"](), KEYS[kind]()
    ca = _certificate("Authority", ca_key, None, ca_key, lasts)
    leaf = _certificate("A. Signer", key, ca, ca_key, lasts)
    files = folder / "chain.pem", folder / "key.pem", folder / "authority.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(leaf.public_bytes(pem) + ca.public_bytes(pem))
    files[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[2].write_bytes(ca.public_bytes(pem))
    return files


def _certificate(name, key, issuer, issuer_key, lasts):
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A Laboratory"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.now(UTC)
    is_authority = issuer is None
    usage = {"digital_signature": not is_authority, "key_cert_sign": is_authority}
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if is_authority else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + lasts)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(**usage, **dict.fromkeys((*others, "encipher_only", "decipher_only"), False)),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if not is_authority:
        signs_mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(signs_mail, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
