"""Holds the pages of protocols/ to the code and to the golden vectors, so that they cannot go stale.

usage: pages.py ROOT        one line a finding; exit 1 if any

- every message of MessageType and every document has a page, with its number and its sections;
- the fields are those of the struct's serialize, in order, in the grammar and in the byte table;
- offsets and sizes of the byte table add up, and the golden vector holds, at each offset, the value
  that the row says;
- the worked example is the vector, cut at the table's fields;
- the states of a diagram are those of its table, each can be reached, and each function or test that
  a row names is in the file that it names;
- links lead somewhere.
"""

import json
import os
import re
import struct
import sys

NUMBERS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q", "i64": "<q", "f64": "<d", "bool": "<B"}
SIZES = {"id": 16, "hash": 32, "key": 32, "sig": 64, "name64": 64}
ANY_SIZE = ("text", "bytes", "block")
SECTIONS = {
    "Message": ("Grammar", "Bytes", "Worked example", "Who sends it, when",
                "What the receiver checks", "Errors", "Security"),
    "Document": ("Grammar", "Bytes", "Worked example", "Who signs it, when",
                 "What the verifier checks", "Errors", "Security"),
    "A": ("Grammar", "Bytes", "Worked example", "Use"),
    "Struct": ("Grammar", "Bytes", "Worked example", "Who sends it", "What the receiver checks",
               "Security"),
}


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def sections(text):
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def cells(line):
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


def table_rows(section):
    """The rows of a section's first table as lists of cells, without its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [cells(line) for line in lines[2:]]


def ticks(cell):
    return cell[1:-1] if cell.startswith("`") and cell.endswith("`") else cell


def says(kind, value, stated):
    """Whether a cell says what the bytes are."""
    if kind in NUMBERS:
        number = struct.unpack(NUMBERS[kind], value)[0]
        word = stated.split(" ")[0]
        return number == (float(word) if kind == "f64" else int(word))
    if kind in ("text", "name64"):
        return json.loads(stated).encode() == value.rstrip(b"\0" if kind == "name64" else b"")
    begin, dots, end = stated.partition("…")
    text = value.hex()
    return text.startswith(begin) and text.endswith(end) if dots else text == stated


def check_table(rows, vector):
    at = 0
    for row in rows:
        if len(row) != 6:
            yield f"a row of the byte table has {len(row)} cells, not 6: {row}"
            return
        offset, size, kind, field, stated = int(row[0]), int(row[1]), row[2], ticks(row[3]), ticks(row[4])
        if offset != at:
            yield f"{field} is said to be at {offset}; the rows before it end at {at}"
        want = struct.calcsize(NUMBERS[kind]) if kind in NUMBERS else SIZES.get(kind)
        if want is None and kind not in ANY_SIZE:
            yield f"{field} is of the unknown type {kind}"
        elif want is not None and want != size:
            yield f"{field} is said to have {size} bytes; a {kind} has {want}"
        elif not says(kind, vector[at:at + size], stated):
            yield f"{field} is said to be {stated}; the vector has {vector[at:at + size].hex()}"
        at += size
    if at != len(vector):
        yield f"the byte table ends at {at}, the vector has {len(vector)} bytes"


def example_fields(section):
    """(name, hex) of a worked example's fields; lines without a name go on with the one before."""
    fields = []
    for line in section.split("```")[1].strip("\n").splitlines():
        words = line.split()
        if len(words) == 2:
            fields.append([words[1], words[0].replace("-", "")])
        else:
            fields[-1][1] += words[0]
    return fields


def check_example(section, rows, vector):
    fields = example_fields(section)
    if "".join(text for _, text in fields) != vector.hex():
        yield "the worked example is not the vector"
    names = [ticks(row[3]) for row in rows]
    if [name for name, _ in fields] != names:
        yield "the worked example's fields are not those of the byte table"
    for (name, text), row in zip(fields, rows):
        if len(text) != 2 * int(row[1]):
            yield f"the worked example's {name} has another length than the byte table's"


def top_fields(names):
    out = []
    for name in names:
        top = re.split(r"[.\[]", name)[0]
        if not out or out[-1] != top:
            out.append(top)
    return out


def struct_fields(code, name):
    """The arguments of the archive call in a struct's serialize, or its members where it has none."""
    body = re.search(r"^struct " + name + r" \{\n(.*?)^\};", code, re.MULTILINE | re.DOTALL)
    if not body:
        return None
    call = re.search(r"\bar\((.*?)\);", body.group(1), re.DOTALL)
    if call:
        return [field.strip() for field in call.group(1).split(",")]
    return re.findall(r"^  [\w:<>]+(?: [\w:<>]+)* (\w+)(?:\{\}| = [^;]+)?;", body.group(1), re.MULTILINE)


def check_fields(parts, rows, code, struct_name):
    fields = struct_fields(code, struct_name)
    if fields is None:
        yield f"the code has no struct {struct_name}"
        return
    shown = top_fields([ticks(row[3]) for row in rows])
    # What is there beside the members.
    if struct_name == "Header":
        fields.append("body")
    if struct_name == "Chunk":
        fields.insert(2, "length")
    if shown != fields:
        yield f"the byte table has the fields {shown}, {struct_name} has {fields}"
    grammar = parts["Grammar"].split("```")[1].strip().splitlines()
    named = [line.split(" = ")[0].strip() for line in grammar if " = " in line]
    if named[1:] != fields:  # the first is the whole
        yield f"the grammar defines {named[1:]}, {struct_name} has {fields}"


def check_page(root, path, code):
    """Findings of one page, and the vector that it works out."""
    text = read(root, path)
    parts = sections(text)
    lead = re.search(r"^(Message|Document|A|Struct)\b.*?Vector: \[`([\w.]+)`\]", text, re.MULTILINE)
    if not lead:
        return ["has no line with its struct and vector"], None
    found = [f"has no section \"{name}\"" for name in SECTIONS[lead.group(1)] if name not in parts]
    if found:
        return found, None
    vector = bytes.fromhex(read(root, "protocols/vectors/v1/" + lead.group(2)).strip())
    rows = table_rows(parts["Bytes"])
    found += check_table(rows, vector)
    found += check_example(parts["Worked example"], rows, vector)
    name = re.search(r"Struct `(\w+)`", text)
    found += check_fields(parts, rows, code, name.group(1)) if name else ["names no struct"]
    fixed = re.search(r"Fixed, (\d+) bytes", text)
    if fixed and int(fixed.group(1)) != len(vector):
        found.append(f"says that it is fixed, {fixed.group(1)} bytes; the vector has {len(vector)}")
    return found, lead.group(2)


def kebab(name):
    return re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower()


def wanted_pages(root):
    """path → what its text must hold: a page for each message, document and the header."""
    header = read(root, "protocols/header.h")
    pages = {"protocols/header.md": "Struct `Header`"}
    for name, number in re.findall(r"^  k(\w+) = (\d+),", header, re.MULTILINE):
        pages[f"protocols/messages/{name.lower()}.md"] = f"Message {number}. "
    bases = read(root, "protocols/bases.cc").split("// Messages")[0]
    for name in re.findall(r"TIDEGATE_INSTANTIATE_MESSAGE\(tidegate::protocols::(\w+)\)",
                           read(root, "protocols/documents.cc") + bases):
        pages[f"protocols/documents/{kebab(name)}.md"] = f"Struct `{name}`"
    return pages


def check_pages(root):
    code = "".join(read(root, "protocols/" + name)
                   for name in ("header.h", "messages.h", "documents.h", "bases.h"))
    pages = wanted_pages(root)
    shown = []
    for path, must in pages.items():
        if not os.path.exists(os.path.join(root, path)):
            yield f"{path}: is missing"
            continue
        if must not in read(root, path):
            yield f"{path}: does not say \"{must}\""
        found, vector = check_page(root, path, code)
        shown.append(vector)
        yield from (f"{path}: {what}" for what in found)
    for folder in ("messages", "documents"):
        for name in sorted(os.listdir(os.path.join(root, "protocols", folder))):
            if f"protocols/{folder}/{name}" not in pages:
                yield f"protocols/{folder}/{name}: is of nothing in the code"
    for name in sorted(os.listdir(os.path.join(root, "protocols/vectors/v1"))):
        # Encoded updates have update.md; the vectors of it are made and read by tests of their own.
        update = re.fullmatch(r"update_(?!key)\w+\.hex", name)
        if name.endswith(".hex") and not update and shown.count(name) != 1:
            yield f"protocols/vectors/v1/{name}: is worked out on {shown.count(name)} pages, not on one"


def check_links(root):
    for folder, _, names in os.walk(os.path.join(root, "protocols")):
        for name in sorted(n for n in names if n.endswith(".md")):
            path = os.path.relpath(os.path.join(folder, name), root)
            for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", read(root, path)):
                if "://" not in target and not os.path.exists(os.path.join(folder, target)):
                    yield f"{path}: links to {target}, which is not there"


def diagram_states(diagram):
    """(states, those that a walk from [*] reaches, transitions) of a stateDiagram-v2."""
    edges = re.findall(r"^\s*(\[\*\]|\w+) --> (\[\*\]|\w+)(?:\s*:\s*(.*))?$", diagram, re.MULTILINE)
    reached, todo = set(), ["[*]"]
    while todo:
        here = todo.pop()
        for source, target, _ in edges:
            if source == here and target not in reached:
                reached.add(target)
                todo.append(target)
    states = {name for edge in edges for name in edge[:2]} - {"[*]"}
    return states, reached, {(source, target) for source, target, _ in edges}


def check_states(root, path="protocols/states.md"):
    text = read(root, path)
    for title, section in sections(text).items():
        diagrams = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", section, re.DOTALL)
        if not diagrams:
            continue
        if len(diagrams) != 1:
            yield f"{path}: \"{title}\" has {len(diagrams)} diagrams, not one"
            continue
        states, reached, edges = diagram_states(diagrams[0])
        for state in sorted(states - reached):
            yield f"{path}: \"{title}\": nothing leads to the state {state}"
        told = set()
        for row in table_rows(section):
            if len(row) != 6:
                yield f"{path}: \"{title}\": a row has {len(row)} cells, not 6: {row}"
                continue
            source, target = ticks(row[0]), ticks(row[4])
            told.add((source, target))
            yield from (f"{path}: \"{title}\": {what}" for what in check_shown_by(root, row[5]))
        for source, target in sorted(told - edges):
            yield f"{path}: \"{title}\": the table goes from {source} to {target}, the diagram does not"
        for source, target in sorted(edges - told):
            yield f"{path}: \"{title}\": the diagram goes from {source} to {target}, the table does not"


def check_shown_by(root, cell):
    """A cell like "`src/a.cc` `Function`, `tests/b.cc` `Test`": each name is in the file before it."""
    text = None
    names = re.findall(r"`([^`]+)`", cell)
    if len(names) < 2:
        yield f"\"{cell}\" names no file and function"
    for name in names:
        if "/" in name:
            if not os.path.exists(os.path.join(root, name)):
                yield f"{name} is not there"
                return
            text = read(root, name)
        elif text is None or not re.search(r"\b" + re.escape(name) + r"\b", text):
            yield f"{name} is not in the file named before it"


def findings(root):
    return [*check_pages(root), *check_links(root), *check_states(root)]


def main(argv):
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 64
    found = findings(argv[1])
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
