"""Signatures inside images by the standard of C2PA (Content Credentials): who vouches for them, unaltered.

A mark (`pipeline.datasets.marks`) is a label that anybody can change. A signature covers every byte of the
file, and names who made it by a certificate. It can be removed, but not changed unseen. Signed files are
never the same bytes twice, since signing draws random numbers. Specification: https://spec.c2pa.org
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.datasets.marks import DIGITAL_SOURCE_TYPE, read_mark

if TYPE_CHECKING:
    from c2pa import Context, Signer

_FORMATS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
# Nothing here goes to a network, whatever an image says; and an image of 5 kB needs no thumbnail of 100 kB.
_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
_UNTRUSTED = "signingCredential.untrusted"


class Signature(NamedTuple):
    """What the signature of an image is worth.

    Attributes:
        state: signed; stranger (signed, but by none of those who are trusted); void (signed by a certificate
            that is not valid, such as one that has expired); altered, in the image or in its signature; or
            unsigned.
        detail: Who signed it, or what is wrong; empty if unsigned.
    """

    state: Literal["signed", "stranger", "void", "altered", "unsigned"]
    detail: str


def _import_c2pa() -> Any:
    """Import c2pa, which is optional.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import c2pa
    except ImportError:
        raise ValueError(
            "signatures need the package c2pa-python; `pip install -c constraints.txt -e '.[export]'` adds it"
        ) from None
    return c2pa


def read_certificates(path: Path) -> bytes:
    """Read a PEM file of certificates whose signatures count.

    Raises:
        ValueError: It holds no certificate, or c2pa-python is not installed.
    """
    _import_c2pa()
    from cryptography.x509 import load_pem_x509_certificates

    pem = path.read_bytes()
    try:
        load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{path} holds no certificate in PEM") from None
    return pem


def load_signer(certificates: Path, key: Path) -> "Signer":
    """Read whose signature images get.

    Args:
        certificates: PEM file with the signer's certificate first and those that vouch for it after it. It
            must be for signing documents or e-mail; a self-signed one is not allowed by the standard.
        key: PEM file with the private key, without a password: of an elliptic curve (P-256, P-384, P-521),
            RSA or Ed25519.

    Raises:
        ValueError: A file is not what it should be, or c2pa-python is not installed.
    """
    c2pa = _import_c2pa()
    chain, secret = certificates.read_bytes(), key.read_bytes()
    try:
        info = c2pa.C2paSignerInfo(getattr(c2pa.C2paSigningAlg, _algorithm(secret, key)), chain, secret, None)
        return c2pa.Signer.from_info(info)
    except c2pa.C2paError as error:
        raise ValueError(f"{certificates} and {key} cannot sign: {error}") from None


def _algorithm(secret: bytes, key: Path) -> str:
    """Return the algorithm that a private key signs with, by its name in C2PA."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(secret, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} is no private key in PEM without a password ({error})") from None
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "PS256"
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ED25519"
    curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in curves:
        return curves[loaded.curve.name]
    raise ValueError(f"{key} is of another kind than RSA, Ed25519 and the curves P-256, P-384 and P-521")


def sign_image(image: Path, target: Path, signer: "Signer", source_type: str = DIGITAL_SOURCE_TYPE) -> None:
    """Write a signed copy of a synthetic image; pixels, XMP and EXIF stay as they are.

    Args:
        image: A JPEG or PNG.
        target: File to write.
        signer: Whose signature it gets.
        source_type: IPTC's digital source type, which the signature says.

    Raises:
        ValueError: It cannot be signed; the certificates may not be of the kind that the standard wants.
    """
    c2pa = _import_c2pa()
    try:
        model: dict[str, Any] = {"softwareAgent": {"name": "IMAGPose", "version": read_mark(image).generator}}
    except ValueError:  # another generator's
        model = {}
    created = {"action": "c2pa.created", "digitalSourceType": source_type, **model}
    manifest = {
        "claim_generator_info": [{"name": "reid-imagpose", "version": version("reid-imagpose")}],
        "title": image.name,
        "format": _FORMATS[image.suffix],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [created]}}],
    }
    try:
        builder = c2pa.Builder(manifest, context=_context(_SETTINGS))
        builder.sign_file(image, target, signer)
    except c2pa.C2paError as error:
        raise ValueError(f"{image} cannot be signed: {error}") from None


def read_signature(image: Path, trusted: bytes | None = None) -> Signature:
    """Check the signature of an image.

    Args:
        image: A JPEG or PNG.
        trusted: The certificates whose signatures count, from `read_certificates`; None takes any, as anybody
            can make one.

    Raises:
        ValueError: c2pa-python is not installed.
    """
    c2pa = _import_c2pa()
    settings = dict(_SETTINGS)
    if trusted is not None:
        settings["trust"] = {"user_anchors": trusted.decode("ascii")}
    try:
        reader = c2pa.Reader(image, context=_context(settings))
        state, results = reader.get_validation_state(), reader.get_validation_results()
        signer = (reader.get_active_manifest() or {}).get("signature_info", {})
    except c2pa.C2paError as error:
        if isinstance(error, c2pa.C2paError.ManifestNotFound):
            return Signature("unsigned", "")
        return Signature("altered", str(error))
    if state == "Invalid":
        failures = (results or {}).get("activeManifest", {}).get("failure", [])
        failures = [failure for failure in failures if failure["code"] != _UNTRUSTED]
        is_void = failures and all(failure["code"].startswith("signingCredential.") for failure in failures)
        reasons = "; ".join(failure["explanation"] for failure in failures)
        return Signature("void" if is_void else "altered", reasons or "its signature is not valid")
    who = ", ".join(filter(None, (signer.get("common_name"), signer.get("issuer")))) or "without a name"
    return Signature("signed" if trusted is None or state == "Trusted" else "stranger", who)


def _context(settings: dict[str, Any]) -> "Context":
    c2pa = _import_c2pa()
    return c2pa.Context(c2pa.Settings.from_dict(settings))
