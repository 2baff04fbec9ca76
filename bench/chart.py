#!/usr/bin/env python3
"""Draws what bench/finetune_vs_peft.py, finetune_vs_trl.py and generate_vs_transformers.py print as
bars: tokens a second of both engines, side by side. Reads their lines from standard input, writes SVG
to standard output:  make bench-finetune | bench/chart.py > docs/speed.svg"""
import json
import sys

WIDTH, LEFT, BAR, GAP = 640, 150, 16, 18
OURS, THEIRS, INK = "#1f6f8b", "#b8c4c9", "#22313a"


def rows(lines):
    """(label, ours, theirs) for each pair of engines that was compared."""
    ours = theirs = None
    for line in lines:
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        if entry.get("engine") == "tidegate":
            ours = entry
        elif "engine" in entry:
            theirs = entry
        elif "compared" in entry:
            if entry["compared"] == "tidegate/trl":
                yield (f"chats {entry['data']}", ours["best_tokens_per_second"],
                       theirs["best_tokens_per_second"])
                continue
            shape = entry.get("shape")
            if shape:
                yield (f"train {entry['dtype']} {shape}", ours["best_tokens_per_second"],
                       theirs["best_tokens_per_second"])
                continue
            for verb in ("decode", "prefill"):
                key = f"best_{verb}_tokens_per_second"
                yield f"{verb} {entry['dtype']}", ours[key], theirs[key]


def text(x, y, content, anchor="start", weight="normal"):
    return (f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{INK}">{content}</text>')


def chart(pairs):
    height = 40 + len(pairs) * (2 * BAR + GAP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           f'font-family="DejaVu Sans, sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<rect x="{LEFT}" y="12" width="12" height="12" fill="{OURS}"/>',
           text(LEFT + 18, 22, "Tidegate"),
           f'<rect x="{LEFT + 100}" y="12" width="12" height="12" fill="{THEIRS}"/>',
           text(LEFT + 118, 22, "transformers with PEFT; chats: TRL; tokens a second")]
    y = 40
    for label, ours, theirs in pairs:
        most = max(ours, theirs)
        out.append(text(LEFT - 10, y + BAR + 4, label, "end"))
        for value, color in ((ours, OURS), (theirs, THEIRS)):
            width = value / most * (WIDTH - LEFT - 130)
            out.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" '
                       f'fill="{color}"/>')
            note = f"{value:.0f}" + (f"  ({ours / theirs:.2f} ×)" if color == OURS else "")
            out.append(text(LEFT + width + 6, y + BAR - 5, note))
            y += BAR
        y += GAP
    return "\n".join(out + ["</svg>"]) + "\n"


if __name__ == "__main__":
    found = list(rows(sys.stdin))
    if not found:
        sys.exit("bench/chart.py: no comparison in standard input; pipe a bench into it")
    sys.stdout.write(chart(found))
