"""Writes sealed.json: names and objects as store.Sealed must make and read them.

It is written from the format's description alone, over the primitives of
Python's "cryptography" package:

    python3 sealed.py > sealed.json
"""

import hashlib
import hmac
import json
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

MAGIC = b"hpcc-s1\n"


def derive(key, info):
    return HKDF(hashes.SHA256(), 32, b"hpcc sealed store 1", info).derive(key)


def rest_bytes(rest):
    head, _, last = rest.partition("/")
    digits, dash, size = last.partition("-")
    if len(digits) == 64 and head == digits[:2]:
        form = 2 if dash else 1
        return bytes([form]) + bytes.fromhex(digits) + struct.pack(">Q", int(size or "0"))
    return b"\0" + rest.encode()


def seal_name(key, name):
    parts = name.split("/")
    kept = parts[:-1][:2]
    dirs = "".join(p + "/" for p in kept)
    plain = rest_bytes("/".join(parts[len(kept):]))
    mac = hmac.new(derive(key, b"names: mac"), dirs.encode() + b"\0" + plain, hashlib.sha256)
    iv = mac.digest()[:16]
    ctr = Cipher(algorithms.AES(derive(key, b"names: cipher")), modes.CTR(iv)).encryptor()
    digits = (iv + ctr.update(plain) + ctr.finalize()).hex()
    pieces = [digits[i:i + 200] for i in range(0, len(digits), 200)]
    return dirs + digits[:2] + "/" + "/".join(pieces) + ".s1"


def padded(n):
    """PADMÉ, as in Nikitin et al., "Reducing Metadata Leakage" (2019), section 4."""
    n = max(n, 64)
    e = n.bit_length() - 1
    s = e.bit_length()
    mask = (1 << max(e - s, 0)) - 1
    return (n + mask) & ~mask


def seal_body(key, name, body, nonce):
    own = HKDFExpand(hashes.SHA256(), 32, b"object " + name.encode()).derive(derive(key, b"content"))
    plain = struct.pack(">Q", len(body)) + body
    plain += bytes(padded(len(plain)) - len(plain))
    return MAGIC + nonce + AESGCM(own).encrypt(nonce, plain, MAGIC + name.encode())


digest = hashlib.sha256(b"hello").hexdigest()
cases = []
for i, (name, body) in enumerate([
    (f"default/result/{digest[:2]}/{digest}", b"a pack"),
    (f"default/blob/{digest[:2]}/{digest}-1234567", bytes(range(256)) * 4),
    (f"t-1/manifest/{digest[:2]}/{digest}", b""),
    ("default/usage", b"x" * 56),
    ("default/lock/evict", b"y" * 57),
    ("top", b"z" * 120),
    ("a/b/" + "c" * 150, b"w" * 121),
]):
    key = hashlib.sha256(b"key %d" % (i % 2)).digest()
    nonce = hashlib.sha256(b"nonce %d" % i).digest()[:12]
    cases.append({
        "key": key.hex(),
        "name": name,
        "body": body.hex(),
        "sealed_name": seal_name(key, name),
        "object": seal_body(key, name, body, nonce).hex(),
    })
print(json.dumps(cases, indent=1))
