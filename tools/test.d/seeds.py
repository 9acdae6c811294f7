"""Where fuzzers start: inputs that are understood, made here rather than kept as bytes. Files in
tests/data/NAME_fuzz are taken too."""
import gzip
import hashlib
import io
import json
import lzma
import os
import struct
import tarfile
import zlib

from builds import ROOT


def elf():
    """A kernel of one segment of text and a PVH note."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x1000000) + bytes(4)
    text = b"\xf4" * 256
    offset = 64 + 2 * 56
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, offset, 0x1000000, 0x100000, len(text), 0x400, 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, offset + len(text), 0, 0, len(note), len(note), 4)
    return header + load + notes + text + note


def bzimage(payload):
    setup = bytearray(1024)
    struct.pack_into("<B", setup, 0x1F1, 1)
    struct.pack_into("<I", setup, 0x1F4, (len(payload) + 19) // 16)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    struct.pack_into("<BB4sH", setup, 0x200, 0xEB, 0x66, b"HdrS", 0x20F)
    struct.pack_into("<B", setup, 0x211, 1)
    struct.pack_into("<I", setup, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<IBBHI", setup, 0x230, 0x200000, 1, 21, 3, 2047)
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    struct.pack_into("<QI", setup, 0x258, 0x1000000, 0x200000)
    return bytes(setup) + payload + bytes(16)


def arm64_image():
    image = bytearray(256)
    struct.pack_into("<QQQ", image, 8, 0, 4096, 0xA)
    image[0x38:0x3C] = b"ARM\x64"
    return bytes(image)


def zboot(payload):
    return b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)).ljust(56, b"\0") + payload


def compressed(data):
    """As Linux does it: the size of what comes out stands behind the payload."""
    size = struct.pack("<I", len(data))
    gzip = zlib.compressobj(9, wbits=31)
    yield gzip.compress(data) + gzip.flush()        # whose own end is the size
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]
    yield lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters) + size
    yield struct.pack("<II", 0x184C2102, 0) + size
    yield b"\x28\xb5\x2f\xfd" + bytes(16) + size


def accesses(where, *each):
    """As pci_fuzz.cpp reads them: (size, offset, value) is a write, (size, offset) a read."""
    where = ("bar", "configuration", "window", "ports").index(where)
    return b"".join(struct.pack("<BBHI", len(one) - 2 | where << 1 | one[0] - 1 << 3, 0, one[1], one[2] if len(one) > 2 else 0) for one in each)


def rings(features=7):
    """A queue with one chain of two descriptors, as device_input.h lays it out."""
    memory = bytearray(0x1000)
    struct.pack_into("<QIHH", memory, 0, 0x800, 64, 1, 1)
    struct.pack_into("<QIHH", memory, 16, 0x900, 256, 2, 0)
    struct.pack_into("<HHH", memory, 0x100, 0, 1, 0)
    return bytes([features]) + bytes(memory)


def qcow2(version=3, order=4, snapshots=0, compression=0):
    """An image of 256 KiB with clusters of 512 bytes: one of data, one zero, one compressed; what is done to it before."""
    cluster = 512
    header = struct.pack(">IIQIIQIIQQIIQ", 0x514649FB, version, 0, 0, 9, 256 << 10, 0, 8, 3 * cluster, cluster, 1, snapshots, 7 * cluster)
    if version == 3:
        header += struct.pack(">QQQIIB7x", 8 if compression else 0, 0, 0, order, 112, compression)
    header += struct.pack(">II8s", 0xE2792ACA, 5, b"qcow2") + bytes(8)
    table = struct.pack(">Q", 2 * cluster)
    counts = bytearray(cluster)
    for i in range(8):
        if order == 4:
            struct.pack_into(">H", counts, 2 * i, 1)
        elif order == 0:
            counts[i // 8] |= 1 << i % 8
    l1 = struct.pack(">Q", 4 * cluster | 1 << 63)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = deflate.compress(b"compressed" * 50 + bytes(12)) + deflate.flush()
    shift = 62 - (9 - 8)
    l2 = struct.pack(">QQQ", 5 * cluster | 1 << 63, 1 if version == 3 else 0, 1 << 62 | (len(packed) + 511) // 512 - 1 << shift | 6 * cluster)
    snapshot = struct.pack(">QIHHIIQII", 3 * cluster, 8, 1, 3, 0, 0, 0, 0, 0) + b"1one"
    image = b"".join(bytes(part).ljust(cluster, b"\0") for part in (header, table, counts, l1, l2, b"data" * 128, packed, snapshot))
    return bytes([1, 0x21, 0x42, 3, 4, 0x61, 2, 0xE0]) + image


def field(number, value):
    """Of saved state: snapshot/FORMAT.md, "state"."""
    return struct.pack("<HI", number, len(value)) + value


def states():
    def section(name, kind, body):
        return field(1, field(1, name) + field(2, kind) + field(3, struct.pack("<I", 1)) + field(4, body))
    extents = field(1, field(1, bytes(8)) + field(2, struct.pack("<Q", 4096)))
    layer = field(1, b"\0") + field(2, extents)
    return b"VMMSTAT1" + field(1, section(b"memory", b"memory-layer", layer) + section(b"rtc", b"cmos-rtc", b"\1\0\1\0\0\0x"))


def manifest(**more):
    text = {"format": "vmm-snapshot", "version": 1, "architecture": "x86_64", "program": "0.1.0", **more,
            "memory": {"digest": "0", "ranges": [{"address": 0, "size": 65536}]}, "state": {"digest": "0"},
            "disks": [{"device": "blk0", "path": "/root.img", "size": 512, "file": "blk0.img", "digest": "0"}], "config": {"mem": "64K"}}
    text["digest"] = hashlib.sha256(json.dumps(text, indent=2).encode() + b"\n").hexdigest()
    return json.dumps(text, indent=2).encode() + b"\n"


def archive_parts():
    """Each begins with the letter by which archive_fuzz.cpp knows what it is."""
    header = {"format": "vmm-export", "version": 1, "architecture": "x86_64", "program": "0.1.0", "page": 4096, "frame_pages": 128,
              "base": {"digest": "0" * 64, "pages": 5}}
    yield b"h" + json.dumps(header, separators=(",", ":")).encode() + b"\n"
    files = b"".join(field(1, field(1, name) + field(2, struct.pack("<Q", size)) + field(3, runs)) for name, size, runs in
                     ((b"state", 5000, b"\0\2\0"), (b"blk0.img", 512, b"\0\1\4"), (b"memory", 65536, b"\1\1\0\2\3\1")))
    for kind in b"ia":
        yield bytes([kind]) + field(1, manifest()) + field(2, files)
    yield b"m" + bytes((1, 0, 1, 0, 2, 0, 5, 1, 1))
    table = struct.pack("<IIIIIBI", 10, 0, 20, 4096, 2, 0, 0x8F92EAB1)
    yield b"s" + struct.pack("<II", 0x184D2A5E, len(table)) + table


CONFIG = {"kernel": "bzImage", "initrd": "initrd", "append": "quiet", "mem": "2G", "cpus": 2, "balloon": True, "reboot": False,
          "disk": [{"path": "root.img", "ro": True, "serial": "X", "queues": 2, "bps": "10M"}, "second.img,io=threads"],
          "net": ["tap=t0,mtu=9000,vhost=off", {"user": True, "hostfwd": ["tcp::8080-:80", "udp:127.0.0.1:53-:53"]}],
          "vsock": "/run/v,cid=3", "serial": "file:out", "control": "/run/ctl", "name": "one"}


def layers():
    """Archives with all that a layer may have, plain and packed."""
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=format) as tar:
            for name, type, link in ((b"d", tarfile.DIRTYPE, ""), (b"d/f", tarfile.REGTYPE, ""), (b"d/.wh.x", tarfile.REGTYPE, ""),
                                     (b"d/.wh..wh..opq", tarfile.REGTYPE, ""), (b"l", tarfile.SYMTYPE, "../d"), (b"l/g", tarfile.LNKTYPE, "d/f"),
                                     (b"h", tarfile.LNKTYPE, "below"), (b"n", tarfile.CHRTYPE, ""), (b"p", tarfile.FIFOTYPE, ""),
                                     (b"n" * 99, tarfile.REGTYPE, "")):
                info = tarfile.TarInfo(name.decode())
                info.type, info.linkname, info.devmajor, info.devminor = type, link, 1, 3
                if format == tarfile.PAX_FORMAT:
                    info.pax_headers = {"SCHILY.xattr.security.capability": "x", "mtime": "1.5"}
                content = b"content" if name == b"d/f" else b""
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        yield file.getvalue()
        yield gzip.compress(file.getvalue())


def erofs():
    """A layer's image: a root with one file."""
    inode = "<HHHHQIIIIQII16x"
    names = [b".", b"..", b"a"]
    entries, at = b"", 12 * len(names)
    for nid, type, name in zip((2, 2, 8), (2, 2, 1), names):
        entries += struct.pack("<QHBB", nid, at, type, 0)
        at += len(name)
    content = entries + b"".join(names)
    image = bytearray(3 * 4096)
    struct.pack_into("<IIIBBHQQIII", image, 1024, 0xE0F5E1E2, 0, 3, 12, 0, 2, 2, 0, 0, 3, 2)
    struct.pack_into(inode, image, 2 * 4096 + 64, 5, 0, 0o40755, 0, len(content), 0, 2, 0, 0, 0, 0, 2)
    image[2 * 4096 + 128:2 * 4096 + 128 + len(content)] = content
    struct.pack_into(inode, image, 2 * 4096 + 256, 1, 0, 0o100644, 0, 7, 1, 8, 0, 0, 0, 0, 1)
    return bytes(image)


def files():
    """Messages of files: of each kind one, over what is there; then through links, and out of the directory."""
    def field(number, value):
        value = struct.pack("<Q", value) if isinstance(value, int) else value
        return struct.pack("<BI", number, len(value)) + value

    def message(kind, *fields):
        body = b"".join(field(number, value) for number, value in fields)
        return struct.pack("<IB", len(body) + 1, kind) + body

    def piece(offset, content):
        return message(2, (1, offset), (2, content))
    xattr = field(1, b"user.x") + field(2, b"value")
    file, folder, link, pipe, device = 0o100644, 0o40700, 0o120777, 0o10644, 0o20666
    common = (
        message(1, (1, b"folder/new"), (2, folder), (5, 1)), message(1, (1, b"folder/new/file"), (2, file | 0o4000), (7, 9), (12, xattr)),
        piece(0, b"some"), piece(6, b"end"), message(1, (1, b"folder/again"), (2, file), (9, b"folder/new/file")),
        message(1, (1, b"file"), (2, file), (7, 3)), piece(0, b"new"), message(1, (1, b"link"), (2, link), (8, b"../outside/file")),
        message(1, (1, b"folder/pipe"), (2, pipe)))
    # Each of these ends a stream that is refused.
    for last in (b"", message(1, (1, b"folder/null"), (2, device), (10, 1), (11, 3)), message(1, (1, b"up/file"), (2, file), (7, 1)),
                 message(1, (1, b"absolute/x"), (2, folder)), message(1, (1, b"../outside/x"), (2, file)), message(1, (1, b"up"), (2, folder)),
                 message(1, (1, b"mine"), (2, file), (9, b"up/file")), message(1, (1, b"folder/up/file"), (2, file))):
        yield b"".join(common) + last + message(4)


def of(name):
    seeds = []
    if name == "elf":
        seeds = [elf()]
    elif name == "bzimage":
        payloads = list(compressed(elf()))
        seeds = [bzimage(payload) for payload in payloads] + payloads
    elif name == "arm64_image":
        stream = gzip.compress(arm64_image())
        seeds = [arm64_image(), stream, zboot(stream)]
    elif name == "config":
        seeds = [json.dumps(CONFIG).encode(), b"root.img,ro,serial=X,direct,io=uring,queues=4,queue-size=64,bps=1M,iops-burst=5",
                 b"user,hostfwd=tcp:1.2.3.4:1-10.0.2.15:2,network=10.1.0.0/24,dns=10.1.0.9,ipv6=on,deny=fd00::/8,mac=52:54:00:01:02:03", b"512MiB",
                 b"socket:/run/x"]
    elif name == "control":
        seeds = [b'{"version":1,"command":"balloon","argument":"1G"}', b'{"ok":true,"result":{"state":"running"}}', b'{"ok":false,"error":"x"}']
    elif name == "pci":
        common = [(1, 0x14, 1), (1, 0x14, 3), (4, 8, 1), (4, 0xC, 1), (1, 0x14, 11), (2, 0x16, 0), (2, 0x18, 16), (4, 0x20, 0),
                  (4, 0x28, 0x100), (4, 0x30, 0x200), (2, 0x1C, 1), (1, 0x14, 15), (1, 0x14, 0)]
        config = [(2, 0x8004, 6), (4, 0x8010, 0xFFFFFFFF), (4, 0x8010), (4, 0x8000)]
        table = [(4, 0x4000, 0xFEE00000), (8, 0x4008, 0x41), (6, 0x4006), (6, 0x400C), (4, 0x400C, 0), (8, 0x6000)]
        seeds = [accesses("bar", *common), accesses("configuration", *config), accesses("bar", *table),
                 accesses("ports", (4, 0, 0x80000800), (4, 4), (2, 6), (1, 3))]
    elif name == "layer":
        seeds = [*layers(), erofs()]
    elif name == "files":
        # How: archives (1), into a root (2), whose owner (4, 8), one name alone (16).
        seeds = [bytes([how]) + layer for layer in layers() for how in (1, 3, 5, 11, 17)] + [bytes([how]) + one for how in (0, 2, 4, 8, 10, 16) for one in files()]
    elif name == "qcow2":
        seeds = [qcow2(), qcow2(version=2), qcow2(order=0), qcow2(snapshots=1), qcow2(compression=1)]
    elif name == "archive":
        seeds = [*archive_parts()]
        with open(os.path.join(ROOT, "tests/data/snapshot-v1.vmm"), "rb") as file:
            seeds.append(file.read())
    elif name == "restore":
        # Of each kind: as it is saved, some fields cut, longer, or left out; of a virtio device, whose transport is the rest.
        edits = b"".join(struct.pack("<BBHB", *one) for one in ((0, 0, 3, 0), (0, 2, 0, 255), (2, 1, 0, 0), (8, 2, 3, 4), (11, 0, 5, 0)))
        for kind in range(12):
            own = b"\x00" if kind >= 7 else b""
            seeds += [bytes([kind]) + own + b"\x01", *(bytes([kind]) + own + b"\x01" + edits[i:i + 5] for i in range(0, len(edits), 5))]
    elif name == "restore_vcpu":
        # Of nested and vector state, lists of MSRs and CPUID: other lengths, other bytes.
        edits = [struct.pack("<BBHB", *one) for one in ((11, 0, 128, 0), (11, 2, 4, 255), (5, 0, 8192, 0), (5, 2, 512, 255), (9, 0, 60, 0),
                                                        (0, 0, 46, 0), (4, 2, 3, 1), (10, 2, 8, 7), (1, 1, 0, 0))]
        seeds = [bytes([kind, 1]) for kind in range(3)] + [bytes([kind, 1]) + edit for kind in range(3) for edit in edits]
    elif name == "snapshot":
        seeds = [states(), manifest(), manifest(parent={"path": "../base", "digest": "0"})]
    elif name in ("balloon", "block", "net", "pmem", "rng", "vsock"):
        seeds = [rings(features) for features in (0, 3, 7)]
    folder = os.path.join(ROOT, "tests/data", f"{name}_fuzz")
    if os.path.isdir(folder):
        for file in sorted(os.listdir(folder)):
            with open(os.path.join(folder, file), "rb") as seed:
                seeds.append(seed.read())
    return seeds
