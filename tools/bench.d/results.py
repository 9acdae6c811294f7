"""The file of figures that `tools/bench --json` writes, and tests/bench/results.json: what was measured, when and how."""
import dataclasses
import json
import pathlib
import statistics


@dataclasses.dataclass
class Topic:
    name: str
    title: str
    unit: str               # of rows that do not end in one of their own: "restore, ms"
    less_is_better: bool
    date: str
    method: str
    rows: dict              # {row: {peer: [values]}}; one value is the median of the runs that the method tells of
    headlines: list = dataclasses.field(default_factory=list)   # rows of README's table

    def median(self, row, peer):
        return statistics.median(self.rows[row][peer])


def save(path, topics):
    text = json.dumps({"topics": [dataclasses.asdict(topic) for topic in topics]}, indent=1)
    pathlib.Path(path).write_text(text + "\n")


def load(path):
    return [Topic(**topic) for topic in json.loads(pathlib.Path(path).read_text())["topics"]]


def number(value):
    """Three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def unit_of(topic, row):
    """(row without its unit, unit)"""
    text, comma, unit = row.rpartition(", ")
    return (text, unit) if comma and not topic.unit else (row, topic.unit)


def table(topics, chosen=lambda topic, row: True):
    """Markdown: a row a figure, vmm's value and each peer's with the ratio of vmm's to it."""
    rows = [(topic, row, by_peer) for topic in topics for row, by_peer in topic.rows.items() if chosen(topic, row)]
    peers = list(dict.fromkeys(peer for _, _, by_peer in rows for peer in by_peer if peer != "vmm"))
    lines = ["| | vmm | " + " | ".join(f"{name_of(peer)} | vmm/{name_of(peer)}" for peer in peers) + " |", "|---" * (2 * len(peers) + 2) + "|"]
    for topic, row, by_peer in rows:
        name, unit = unit_of(topic, row)
        ours = topic.median(row, "vmm")
        cells = [f"{number(ours)} {unit}"]
        for peer in peers:
            theirs = topic.median(row, peer) if peer in by_peer else None
            cells += [f"{number(theirs)} {unit}", f"{ours / theirs:.2f}"] if theirs else ["", ""]
        lines.append(f"| {topic.title}: {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


NAMES = {"qemu": "QEMU", "firecracker": "Firecracker"}


def name_of(peer):
    """As people write it."""
    return NAMES.get(peer, peer)
