"""A signature says who vouches for an image, and whether it was altered since."""

import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.marks import Mark, read_mark, save_image
from pipeline.datasets.signatures import load_signer, read_certificates, read_signature, sign_image
from tests.pipeline.certificates import KEYS, make_certificates

MARK = Mark("0123abcd", "a.jpg", "b.jpg", 1, 2.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    save_image(PIXELS, tmp_path / "a.jpg", 92, MARK)
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("kind", list(KEYS))
def test_a_signed_image_has_its_pixels_and_its_mark_and_says_who_signed_it(
    kind: str, image: Path, tmp_path: Path
) -> None:
    certificates, key, authority = make_certificates(tmp_path, kind)
    signed = tmp_path / "signed.jpg"
    before = image.read_bytes()
    sign_image(image, signed, load_signer(certificates, key))
    assert image.read_bytes() == before and read_mark(signed) == MARK
    with Image.open(signed) as first, Image.open(image) as second:
        assert first.tobytes() == second.tobytes()
    assert signed.stat().st_size < image.stat().st_size + 20_000
    source_type = b"trainedAlgorithmicMedia"  # in the mark, and in the signature
    assert signed.read_bytes().count(source_type) == before.count(source_type) + 1
    for trusted in (None, read_certificates(authority), read_certificates(certificates)):
        assert read_signature(signed, trusted) == ("signed", "A. Signer, A Laboratory")
    assert read_signature(image) == ("unsigned", "")


@pytest.mark.parametrize("place", ["pixels", "mark", "signature", "end"])
def test_whatever_is_altered_shows(place: str, image: Path, tmp_path: Path) -> None:
    certificates, key, _ = make_certificates(tmp_path)
    signed = tmp_path / "signed.jpg"
    sign_image(image, signed, load_signer(certificates, key))
    data = bytearray(signed.read_bytes())
    if place == "end":
        data += b"more"
    else:
        where = {
            "pixels": len(data) - 500,
            "mark": data.index(b"0123abcd"),
            "signature": data.index(b"c2pa.sig") + 600,
        }
        data[where[place]] ^= 1
    signed.write_bytes(data)
    state, reason = read_signature(signed)
    assert state == "altered" and reason


def test_a_signature_says_what_kind_of_image_it_is(image: Path, tmp_path: Path) -> None:
    certificates, key, _ = make_certificates(tmp_path)
    sign_image(image, tmp_path / "signed.jpg", load_signer(certificates, key), "http://an.example/kind")
    assert b"http://an.example/kind" in (tmp_path / "signed.jpg").read_bytes()


@pytest.mark.parametrize("content", [b"", b"none", b"\xff", "key"])
def test_a_file_without_certificates_is_no_reason_to_call_images_altered(
    content: bytes | str, tmp_path: Path
) -> None:
    _, key, _ = make_certificates(tmp_path)
    file = tmp_path / "trusted.pem"
    file.write_bytes(key.read_bytes() if content == "key" else content)
    with pytest.raises(ValueError, match=r"trusted\.pem holds no certificate in PEM"):
        read_certificates(file)


def test_a_stranger_can_sign_and_is_called_so(image: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, _, authority = make_certificates(tmp_path / "other")
    certificates, key, _ = make_certificates(tmp_path)
    sign_image(image, tmp_path / "signed.jpg", load_signer(certificates, key))
    assert read_signature(tmp_path / "signed.jpg").state == "signed"
    found = read_signature(tmp_path / "signed.jpg", authority.read_bytes())
    assert found == ("stranger", "A. Signer, A Laboratory")


def test_keys_and_certificates_that_do_not_fit_are_refused_in_a_sentence(image: Path, tmp_path: Path) -> None:
    certificates, key, authority = make_certificates(tmp_path)
    with pytest.raises(ValueError, match=r"authority\.pem is no private key in PEM without a password"):
        load_signer(certificates, authority)
    (tmp_path / "other").mkdir()
    _, other, _ = make_certificates(tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot (sign|be signed)"):
        sign_image(image, tmp_path / "signed.jpg", load_signer(certificates, other))
    certificates.write_text("none")
    with pytest.raises(ValueError, match=r"cannot (sign|be signed)"):
        sign_image(image, tmp_path / "signed.jpg", load_signer(certificates, key))


def test_an_expired_certificate_signs_nothing(image: Path, tmp_path: Path) -> None:
    certificates, key, _ = make_certificates(tmp_path, lasts=timedelta(seconds=-60))
    with pytest.raises(ValueError, match=r"cannot (sign|be signed)"):
        sign_image(image, tmp_path / "signed.jpg", load_signer(certificates, key))


@pytest.mark.slow
def test_a_signature_is_void_when_its_certificate_has_expired(image: Path, tmp_path: Path) -> None:
    certificates, key, _ = make_certificates(tmp_path, lasts=timedelta(seconds=2))
    sign_image(image, tmp_path / "signed.jpg", load_signer(certificates, key))
    assert read_signature(tmp_path / "signed.jpg").state == "signed"
    time.sleep(3)
    assert read_signature(tmp_path / "signed.jpg") == ("void", "certificate expired")


def test_without_the_package_the_sentence_says_how_to_get_it(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ValueError, match=r"need the package c2pa-python; `pip install"):
        read_signature(image)
