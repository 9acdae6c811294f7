"""Image archives (OCI layouts in a tar) for benchmarks: the files of an archive of one layer, and others, spread over some layers, gzip as
registries have them. Equal inputs give equal bytes.

Files are of two kinds: mixed, 10,000 files a 300 MiB, half of each random, as programs compress: what a pull moves and unpacks; regular,
files of 1 MiB that repeat themselves: as large when unpacked, and next to nothing as an archive."""
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import tarfile

# Layers, MiB, kind
IMAGES = {"pulled": (5, 300, "mixed"), "one-small": (1, 10, "mixed"), "sixty-small": (60, 10, "mixed"), "one-large": (1, 2048, "regular")}

MIXED = (1024, 4096, 8192, 16384, 65536, 92160)     # sizes of files, 30 KiB on average
BLOCK = 4096
TEXT = b"Neither a file system nor a compressor sees anything else in it than a text of a certain length. "


def mixed(numbers, left):
    size = min(left, numbers.choice(MIXED))
    half = BLOCK // 2
    text = (TEXT * (half // len(TEXT) + 1))[:half]
    return b"".join(numbers.randbytes(half) + text for _ in range(-(-size // BLOCK)))[:size]


def regular(numbers, left):
    size = min(left, 1 << 20)
    return (numbers.randbytes(BLOCK) * (size // BLOCK + 1))[:size]


KINDS = {"mixed": mixed, "regular": regular}


class Compressed:
    """A file that is written compressed; both digests, and its bytes."""

    def __init__(self):
        self.bytes, self._plain = io.BytesIO(), hashlib.sha256()
        self._gzip = gzip.GzipFile(fileobj=self.bytes, mode="wb", compresslevel=6, mtime=0, filename="")

    def write(self, data):
        self._plain.update(data)
        return self._gzip.write(data)

    def tell(self):
        return self._gzip.tell()

    def finish(self):
        """(compressed bytes, diff id)"""
        self._gzip.close()
        return self.bytes.getvalue(), self._plain.hexdigest()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def base_layer(path):
    """The archive of the only layer, and the image's configuration."""
    with tarfile.open(path) as archive:
        (said,) = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(said["Config"]))
        (layer,) = said["Layers"]
        return archive.extractfile(layer).read(), config["config"]


def layer(number, size, kind, base, numbers):
    out = Compressed()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        if base:
            with tarfile.open(fileobj=io.BytesIO(base)) as files:
                for info in files:
                    tar.addfile(info, files.extractfile(info) if info.isreg() else None)
        index = 0
        while size > 0:
            data = KINDS[kind](numbers, size)
            add(tar, f"filler/{number}/{index // 100}/{index}", data)
            size, index = size - len(data), index + 1
    return out.finish()


def make(out, base, name, layers, mib, kind):
    numbers = random.Random(f"{layers} {mib} {kind}")
    first, config = base_layer(base)
    blobs, descriptors, diff_ids = {}, [], []

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": "sha256:" + digest, "size": len(data)}

    for number in range(layers):
        data, diff_id = layer(number, (mib << 20) // layers, kind, first if number == 0 else b"", numbers)
        descriptors.append(blob(data, "layer.v1.tar+gzip"))
        diff_ids.append("sha256:" + diff_id)
    text = json.dumps({"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "config": blob(text.encode(), "config.v1+json"), "layers": descriptors})
    entry = {**blob(manifest.encode(), "manifest.v1+json"), "annotations": {"org.opencontainers.image.ref.name": name}}
    with tarfile.open(out, "w") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for digest, data in blobs.items():
            add(tar, "blobs/sha256/" + digest, data)


def kept(name, base):
    """The path of that one of IMAGES in the cache, made if it is not there; in it, it is called bench/NAME:latest."""
    key = hashlib.sha256(pathlib.Path(__file__).read_bytes() + pathlib.Path(base).read_bytes()).hexdigest()[:16]
    given = os.environ.get("XDG_CACHE_HOME", "")
    cache = pathlib.Path(given if os.path.isabs(given) else pathlib.Path.home() / ".cache", "vmm/bench")
    path = cache / f"{name}-{key}.tar"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{name}-*"):
            old.unlink()
        partial = path.with_suffix(".partial")
        make(partial, base, f"bench/{name}:latest", *IMAGES[name])
        partial.rename(path)
    return str(path)
