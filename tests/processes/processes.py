"""Holds the built programs to docs/architecture.md: what each process may have in it at all.

usage: processes.py program NAME FILE        the program is built as its row says
       processes.py complete ROOT NAME...    every program of the tree has a row and was built

A line a finding; exit 1 if any.
"""

import os
import re
import sys

import elf

LIBRARIES = {"zmq": r"libzmq\.so", "sqlite": r"libsqlite3\.so", "dnnl": r"libdnnl\.so",
             "crypto": r"libcrypto\.so", "zstd": r"libzstd\.so"}
IMPORTS = {"zmq": r"zmq_", "sqlite": r"sqlite3_", "dnnl": r"dnnl_", "crypto": r"EVP_", "zstd": r"ZSTD_"}


class Row:
    """What one program must have and may not have: libraries, and modules by their namespace."""

    def __init__(self, module, needs=(), has=(), no_libraries=(), no_modules=()):
        self.module, self.needs, self.has = module, needs, has
        self.no_libraries, self.no_modules = no_libraries, no_modules


# The modules that see a record, and those that work on its tokens.
RECORDS = ("records", "finetune")
TRAINING = RECORDS + ("train", "model", "tensor", "tokens", "kernels")

PROGRAMS = {
    "tidegate-trainer": Row("src/onshore/trainer", has=RECORDS, no_libraries=("zmq", "sqlite"),
                            no_modules=("transport", "gate", "permit", "offshore")),
    # It verifies bases and unpacks none.
    "tidegate-gate": Row("src/onshore/gate_process", has=("gate",),
                         no_libraries=("zmq", "sqlite", "dnnl", "zstd"),
                         no_modules=TRAINING + ("transport", "offshore")),
    "tidegate-link": Row("src/onshore/link", needs=("zmq",), has=("transport",),
                         no_libraries=("sqlite", "dnnl"),
                         no_modules=TRAINING + ("gate", "offshore")),
    "tidegate-onshore": Row("src/onshore/supervisor", has=("onshore",),
                            no_libraries=("zmq", "sqlite", "dnnl", "crypto"),
                            no_modules=TRAINING + ("crypto", "transport", "gate", "permit",
                                                   "offshore")),
    "tidegate-coordinator": Row("src/offshore", needs=("zmq",), has=("offshore", "transport"),
                                no_modules=RECORDS + ("train", "gate", "onshore")),
    "tidegate-pretrain": Row("src/pretrain", needs=("dnnl",), has=("pretrain", "cluster", "train"),
                             no_libraries=("zmq", "sqlite"),
                             no_modules=RECORDS + ("transport", "gate", "permit", "onshore",
                                                   "offshore")),
    # MPI is in it, a model or a record is not: those are with the trainer that it starts.
    "tidegate-simulate": Row("src/simulate", has=("simulate", "cluster"),
                             no_libraries=("zmq", "sqlite", "dnnl"),
                             no_modules=TRAINING + ("transport", "gate", "permit", "offshore")),
    # It sees prompts and answers: no record, no model, no key of a site.
    "tidegate-serve": Row("src/serve", has=("serve",),
                          no_libraries=("zmq", "sqlite", "dnnl", "crypto"),
                          no_modules=TRAINING + ("crypto", "transport", "gate", "permit",
                                                 "offshore")),
    "tidegate": Row("src/cli", has=("cli",), no_libraries=("zmq", "sqlite"),
                    no_modules=RECORDS + ("train", "transport", "offshore")),
}


def in_module(symbols, module):
    """A symbol of namespace tidegate::MODULE, as the compiler mangles it."""
    mark = f"8tidegate{len(module)}{module}"
    return next((symbol for symbol in symbols if mark in symbol), None)


def check_program(name, path):
    row = PROGRAMS[name]
    program = elf.Elf(path)
    symbols = program.symbols()
    if in_module(symbols, "onshore") is None and not any("8tidegate" in s for s in symbols):
        yield f"{path} has no symbols of ours: stripped? The test needs them"
        return
    for library in row.needs:
        if not any(re.match(LIBRARIES[library], n) for n in program.needed()):
            yield f"{name} does not need {library}, which is its work"
    for library in row.no_libraries:
        for needed in program.needed():
            if re.match(LIBRARIES[library], needed):
                yield f"{name} needs {needed}"
        for symbol in program.imports():
            if re.match(IMPORTS[library], symbol):
                yield f"{name} calls {symbol} of {library}"
    for module in row.has:
        if in_module(symbols, module) is None:
            yield f"{name} has nothing of tidegate::{module}, which is its work"
    for module in row.no_modules:
        symbol = in_module(symbols, module)
        if symbol is not None:
            yield f"{name} has {symbol} of tidegate::{module}"


def check_complete(root, built):
    """`built`: the programs that the test's CMakeLists.txt found as targets."""
    declared = {}
    for folder, folders, names in os.walk(os.path.join(root, "src")):
        folders.sort()
        if "CMakeLists.txt" in names:
            with open(os.path.join(folder, "CMakeLists.txt"), encoding="utf-8") as file:
                for name in re.findall(r"tidegate_program\(\s*([\w-]+)", file.read()):
                    declared[name] = os.path.relpath(folder, root)
    for name, module in declared.items():
        if name not in PROGRAMS:
            yield f"{name} of {module} has no row in tests/processes/processes.py"
    for name, row in PROGRAMS.items():
        if os.path.exists(os.path.join(root, row.module, "CMakeLists.txt")) and name not in built:
            yield f"{row.module} is there and {name} is not built"


def main(argv):
    if len(argv) == 4 and argv[1] == "program" and argv[2] in PROGRAMS:
        found = list(check_program(argv[2], argv[3]))
    elif len(argv) >= 3 and argv[1] == "complete":
        found = list(check_complete(argv[2], argv[3:]))
    else:
        print(__doc__, file=sys.stderr)
        return 64
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
