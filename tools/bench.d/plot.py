"""Bar charts of figures, as SVG: a chart a topic, a group of bars a row that has peers, each a median as a multiple of vmm's. A line over a
bar goes from the least value to the greatest, where there are several."""
import pathlib
import sys
from xml.sax.saxutils import escape

import results

COLOURS = {"vmm": "#2563eb", "firecracker": "#f59e0b", "qemu": "#9ca3af"}
OTHERS = ["#a78bfa", "#f472b6", "#94a3b8"]
BAR, GAP, WIDTH, TOP = 15, 12, 680, 52
LETTER = 6.8    # of a row's name, on average
# Readable on a light page and on a dark one.
STYLE = """text{font:12px system-ui,sans-serif;fill:#1f2937}.title{font-weight:600;font-size:14px}.note{fill:#6b7280}
rect.back{fill:#fff}line{stroke:#1f2937}line.one{stroke:#9ca3af;stroke-dasharray:3 3}"""


def colour(peer, index):
    return COLOURS.get(peer, OTHERS[index % len(OTHERS)])


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def chart(topic):
    """The SVG text of a topic."""
    ratios = {row: {peer: [value / topic.median(row, "vmm") for value in values] for peer, values in by_peer.items()}
              for row, by_peer in topic.rows.items() if "vmm" in by_peer and len(by_peer) > 1}
    begin = round(30 + LETTER * max(len(results.unit_of(topic, row)[0]) for row in ratios))
    most = max(value for by_peer in ratios.values() for values in by_peer.values() for value in values)
    scale = (WIDTH - begin - 110) / most
    parts, y = [], TOP
    for row, by_peer in ratios.items():
        name, unit = results.unit_of(topic, row)
        parts.append(text(begin - 10, y + (BAR * len(by_peer)) / 2 + 4, name, anchor="end"))
        for index, (peer, values) in enumerate(by_peer.items()):
            length = results.statistics.median(values) * scale
            parts.append(f'<rect x="{begin}" y="{y}" width="{length:.1f}" height="{BAR - 2}" rx="2" fill="{colour(peer, index)}"/>')
            if len(values) > 1:
                low, high, middle = begin + min(values) * scale, begin + max(values) * scale, y + BAR / 2 - 1
                parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
            end = begin + max(length, max(values) * scale if len(values) > 1 else 0) + 6
            parts.append(text(end, y + BAR - 4, f"{results.number(topic.median(row, peer))} {unit}"))
            y += BAR
        y += GAP
    parts.append(f'<line class="one" x1="{begin + scale:.1f}" x2="{begin + scale:.1f}" y1="{TOP - 6}" y2="{y - GAP + 4}"/>')
    legend, x = [], begin
    for index, peer in enumerate(dict.fromkeys(peer for by_peer in ratios.values() for peer in by_peer)):
        legend.append(f'<rect x="{x}" y="{TOP - 24}" width="11" height="11" rx="2" fill="{colour(peer, index)}"/>')
        legend.append(text(x + 16, TOP - 14, results.name_of(peer)))
        x += 32 + 7 * len(peer)
    spread = any(len(values) > 1 for by_peer in ratios.values() for values in by_peer.values())
    note = f"{topic.date}, medians" + ("; a line from the least to the greatest value" if spread else "")
    better = "shorter is better" if topic.less_is_better else "longer is better"
    height = y + 14
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
            f"<title>{escape(topic.title)}</title>\n<style>{STYLE}</style>\n"
            f'<rect class="back" width="{WIDTH}" height="{height}" rx="6"/>\n' +
            text(12, 20, topic.title, "title") + "\n" + text(WIDTH - 12, 20, f"{better}; dashed: vmm = 1", "note", "end") + "\n" +
            "\n".join(legend + parts) + "\n" + text(12, height - 6, note, "note") + "\n</svg>\n")


def draw(topics, folder):
    """A file a topic that has a peer; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for topic in topics:
        if any(len(by_peer) > 1 for by_peer in topic.rows.values()):
            paths.append(folder / f"{topic.name}.svg")
            paths[-1].write_text(chart(topic))
    return paths


def main(words):
    """--plot [FILE [FOLDER]] draws, --table [FILE] prints Markdown; without a file: tests/bench/results.json."""
    root = pathlib.Path(__file__).resolve().parents[2]
    path = words[1] if len(words) > 1 else root / "tests/bench/results.json"
    try:
        topics = results.load(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"bench: {path} is not a file of figures that --json wrote: {error}") from None
    if words[0] == "--table":
        print(results.table(topics, (lambda topic, row: True) if len(words) > 1 else lambda topic, row: row in topic.headlines), end="")
        return
    for drawn in draw(topics, pathlib.Path(words[2]) if len(words) > 2 else root / "tests/bench/plots"):
        print(drawn)


if __name__ == "__main__":
    main(sys.argv[1:])
