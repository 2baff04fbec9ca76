"""Holds the tree to CONTRIBUTING.md: who may include whom, sizes, dead files, forbidden words.

usage: tidy.py ROOT        one line a finding, "path:line: [rule] what and what to do"; exit 1 if any

Looks at the files that git knows; in a tree that is no checkout, at all of them.
"""

import os
import re
import subprocess
import sys

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 120

CODE = (".h", ".cc", ".cu")
MODULE_ROOTS = ("kernels/", "protocols/", "src/")
# Made by scripts or copied from elsewhere: numbers, not prose.
DATA = ("tests/golden/", "protocols/vectors/")

# Where a library may be used, beside its tests. The pattern sees code without comments and texts.
CONFINED = (
    ("evp", re.compile(r"\bEVP_\w|<openssl/evp\.h>"), ("src/crypto/",), ("tests/crypto/",),
     "raw EVP belongs in src/crypto"),
    ("zmq", re.compile(r"\bzmq_\w+\s*\(|\bzmq::|<zmq\w*\.h(pp)?>"), ("src/transport/",), ("tests/", "bench/wire_bench."),
     "ZeroMQ belongs in src/transport"),
    ("cereal", re.compile(r"\bcereal::|namespace\s+cereal\b|<cereal/"),
     ("protocols/", "src/onshore/ipc/"), ("tests/compile_fail/",),
     "cereal belongs in protocols and src/onshore/ipc"),
    # C++ has no way to say who may be a friend's namesake.
    ("permit", re.compile(r"\bReleasePass\b|\bclass\s+(Review|Sealing)\s*\{"),
     ("src/permit/", "src/gate/review.", "src/gate/sealing.", "src/crypto/sign."),
     ("tests/permit/", "tests/compile_fail/"), "releases are signed by src/gate/sealing alone"),
    ("bare", re.compile(r"\bBareEd25519\b"), ("src/crypto/",), ("tests/crypto/",),
     "a signature without a domain is for src/crypto alone"),
    ("nonce", re.compile(r"\bGcmNonce\b|\binternal::Gcm\b|\bSetup(Sender|Recipient)With\b"),
     ("src/crypto/",), ("tests/crypto/",),
     "nonces and ephemeral keys are chosen by src/crypto alone"),
    ("wire", re.compile(r"\btransport::Client\b"), ("src/transport/", "src/onshore/link/main."),
     ("tests/", "bench/"), "a site's wire is for src/onshore/link/main.cc alone"),
    # What the emulator of tests/kernels/simt does not know would be tested on a GPU alone.
    ("simt", re.compile(r"\b__(shared|global|device)__\b|<<<|\batomic(Add|CAS|Exch)\b|cuda_bf16\.h|"
                        r"cooperative_groups|\bwmma\b"),
     ("kernels/internal/simt",), (),
     "kernels reach CUDA through kernels/internal/simt.h alone, and use no atomics"),
    ("outbound", re.compile(r"\bclient_->Send\w*\((?!wire->)"), ("src/transport/",), ("tests/",),
     "link sends what a permit::Outbound holds, and nothing else"),
)

# The headers of libraries that a module may see without linking them.
LIBRARY_HEADERS = (
    ("OpenSSL::Crypto", "openssl/"), ("DNNL::dnnl", "dnnl"), ("DNNL::dnnl", "oneapi/"),
    ("PkgConfig::PCRE2", "pcre2.h"), ("PkgConfig::UTF8PROC", "utf8proc.h"),
    ("PkgConfig::ZMQ", "zmq"), ("PkgConfig::ZSTD", "zstd"), ("PkgConfig::SECCOMP", "seccomp.h"),
    ("SQLite::SQLite3", "sqlite3.h"), ("PkgConfig::LIBPQ", "libpq"), ("cereal::cereal", "cereal/"),
    ("tomlplusplus::tomlplusplus", "toml++/"), ("CLI11::CLI11", "CLI/"),
    ("MPI::MPI_C", "mpi.h"),
)

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
# A path of one machine. "/tmp" alone is a directory that every system has; a file in it is not.
MACHINE_PATH = re.compile(r"(?<![\w.$}~>)/-])/(?:(?:work|opt|home)(?:/|\b)|tmp/\w|root/)")
# The page and this script have to name what they forbid.
NAMES_UNFINISHED = ("CONTRIBUTING.md", "tests/tidy/")


class Tree:
    """The files of a checkout, read once."""

    def __init__(self, root):
        self.root = root
        self.paths = [p for p in list_files(root) if os.path.isfile(os.path.join(root, p))]
        self.known = set(self.paths)
        self.texts = {}
        for path in self.paths:
            if path.startswith(DATA):
                continue
            with open(os.path.join(root, path), "rb") as file:
                data = file.read()
            if b"\0" not in data:
                self.texts[path] = data.decode("utf-8", errors="replace")
        self.layers = read_rows(self.texts.get("cmake/layers.txt", ""), r"([a-z_/]+)")
        self.libraries = read_rows(self.texts.get("cmake/layers.txt", ""), r"\[([\w:]+)\]")

    def code(self, *starts):
        return [p for p in self.texts if p.endswith(CODE) and (not starts or p.startswith(starts))]

    def module_of(self, path):
        """The module that a file lies in: the longest row of the table that holds it."""
        rows = [m for m in self.layers if path.startswith(m + "/")]
        return max(rows, key=len) if rows else None


def list_files(root):
    if os.path.exists(os.path.join(root, ".git")):
        done = subprocess.run(["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z"],
                              capture_output=True, check=False)
        if done.returncode == 0:
            return sorted(set(os.fsdecode(done.stdout).split("\0")) - {""})
    found = []
    for folder, folders, names in os.walk(root):
        # A build folder names itself by its cache.
        folders[:] = [f for f in folders if not f.startswith(".") and
                      not os.path.exists(os.path.join(folder, f, "CMakeCache.txt"))]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


def read_rows(text, name):
    rows = {}
    for line in text.splitlines():
        row = re.match(name + r" *:(.*)", line)
        if row:
            rows[row.group(1)] = row.group(2).split()
    return rows


def blank(match):
    """The same number of lines and nothing else."""
    return re.sub(r"[^\n]", " ", match.group(0))


def without_comments(text):
    """Code with comments blanked; texts stay (an include's path is one)."""
    pattern = re.compile(r'R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|'
                         r"//[^\n]*|/\*.*?\*/", re.DOTALL)
    return pattern.sub(lambda m: blank(m) if m.group(0).startswith("/") else m.group(0), text)


def without_texts(code):
    return re.sub(r'R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"', blank, code, flags=re.DOTALL)


def check_layer_table(tree):
    """Each module of the table is known before it is used, so that the table has no circle."""
    seen = set()
    if not tree.layers:
        yield "cmake/layers.txt", 1, "layers", "the table of modules is missing or empty"
    for module, allowed in tree.layers.items():
        for name in allowed:
            if name not in seen:
                yield ("cmake/layers.txt", 1, "layers",
                       f"{module} may include {name}, which has no row above it")
        seen.add(module)


def included_path(tree, path, folder=""):
    """What an include line of a file in `folder` names. Tests may name their neighbours."""
    # The client library's headers are included as a client has them.
    candidates = [path, "src/" + path, "src/sdk/include/" + path]
    if folder.startswith("tests"):
        candidates += ["tests/" + path, folder + "/" + path]
    for candidate in candidates:
        if candidate in tree.known or os.path.exists(os.path.join(tree.root, candidate)):
            return candidate
    return None


def check_includes(tree):
    for path in tree.code(*MODULE_ROOTS):
        module = tree.module_of(path)
        if module is None:
            yield path, 1, "layers", "lies in no module of cmake/layers.txt; add a row"
            continue
        for number, line in enumerate(without_comments(tree.texts[path]).splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = included_path(tree, match.group(2))
            if target is None:
                if match.group(1) == '"':
                    yield (path, number, "layers",
                           f'"{match.group(2)}" is no path from the root or from src')
                continue
            if match.group(1) == "<":
                yield path, number, "layers", f"<{match.group(2)}> is ours; write it with quotes"
            owner = tree.module_of(target)
            if owner != module and owner not in tree.layers[module]:
                yield (path, number, "layers",
                       f"{module} may not include {target} (cmake/layers.txt)")


def includes(tree, module):
    """What the files of a module include: modules of ours, and headers of others."""
    ours, others = set(), set()
    for path in tree.code(module + "/"):
        if tree.module_of(path) != module:
            continue
        for line in without_comments(tree.texts[path]).splitlines():
            match = INCLUDE.match(line)
            target = match and included_path(tree, match.group(2))
            if target:
                ours.add(tree.module_of(target))
            elif match:
                others.add(match.group(2))
    return ours - {module, None}, others


def cmake_of(tree, module):
    path = module + "/CMakeLists.txt"
    return path, cmake_words(tree.texts.get(path, ""))


def check_table_is_what_is_there(tree):
    """A name in a row that the module does not use, DEPS that differ from what it includes."""
    for module, allowed in tree.layers.items():
        used, _ = includes(tree, module)
        path, words = cmake_of(tree, module)
        linked = words & set(tree.layers) - {module}
        for name in sorted(set(allowed) - used):
            yield ("cmake/layers.txt", 1, "layers",
                   f"{module} includes nothing of {name}; take it out of the row")
        for name in sorted(linked - used):
            yield path, 1, "layers", f"{module} includes nothing of {name}; take it out of DEPS"
        for name in sorted(used & set(allowed) - linked):
            yield path, 1, "layers", f"{module} includes {name}; name it in DEPS"


def check_libraries(tree):
    """Each library is linked, and its headers are included, by the modules of its row."""
    linking = {library: set() for library in tree.libraries}
    for module in tree.layers:
        path, words = cmake_of(tree, module)
        for library in sorted(word for word in words if re.fullmatch(r"\w+::\w+", word)):
            if module not in tree.libraries.get(library, ()):
                yield (path, 1, "libraries",
                       f"{module} may not link {library} (cmake/layers.txt)")
            linking.setdefault(library, set()).add(module)
        for header in sorted(includes(tree, module)[1]):
            for library, start in LIBRARY_HEADERS:
                if header.startswith(start) and module not in tree.libraries.get(library, ()):
                    yield (path, 1, "libraries",
                           f"{module} may not include <{header}> (cmake/layers.txt)")
    for library, modules in tree.libraries.items():
        for module in sorted(set(modules) - linking[library]):
            yield ("cmake/layers.txt", 1, "libraries",
                   f"{module} does not link {library}; take it out of the row")


def check_file_length(tree):
    for path in tree.code() + [p for p in tree.texts if p.endswith((".py", ".sh"))]:
        lines = tree.texts[path].count("\n")
        if lines > MAX_FILE_LINES:
            yield path, lines, "file-length", f"has {lines} lines, at most {MAX_FILE_LINES}; split it"


def check_function_length(tree):
    """By the layout of clang-format: a function at namespace level begins in the first column and
    ends in a line that is "}" alone; nothing between, but the preprocessor, is in that column."""
    for path in tree.code():
        start = 1
        for number, line in enumerate(tree.texts[path].splitlines(), 1):
            if line == "}" and number - start + 1 > MAX_FUNCTION_LINES:
                yield (path, start, "function-length",
                       f"{number - start + 1} lines, at most {MAX_FUNCTION_LINES}; split it")
            if line[:1].strip() and not line.startswith("#"):
                start = number


def nearest_cmake(tree, path):
    folder = os.path.dirname(path)
    while folder and folder + "/CMakeLists.txt" not in tree.texts:
        folder = os.path.dirname(folder)
    return folder + "/CMakeLists.txt" if folder else None


def cmake_words(text):
    return set(re.sub(r"#[^\n]*", "", text).replace("(", " ").replace(")", " ").split())


def names(tree, cmake, path):
    """Whether a CMakeLists.txt, or a script of CMake beside it, names the file: by its path from
    there, or with a variable before that."""
    folder = os.path.dirname(cmake)
    scripts = [p for p in tree.texts if os.path.dirname(p) == folder and p.endswith(".cmake")]
    own = os.path.relpath(path, folder)
    return any(word == own or (word.startswith("${") and word.endswith("/" + own))
               for script in [cmake] + scripts for word in cmake_words(tree.texts[script]))


def check_dead_files(tree):
    included = set()
    for path in tree.code():
        for line in without_comments(tree.texts[path]).splitlines():
            match = INCLUDE.match(line)
            if match:
                included.add(included_path(tree, match.group(2), os.path.dirname(path)))
    for path in tree.code(*MODULE_ROOTS, "tests/", "bench/"):
        if path.endswith(".h"):
            if path not in included:
                yield path, 1, "dead-file", "no file includes it; delete it"
            continue
        cmake = nearest_cmake(tree, path)
        if cmake is None:
            yield path, 1, "dead-file", "no CMakeLists.txt above it; nothing builds it"
        elif path.startswith("tests/") and path.endswith("_test.cc"):
            if os.path.dirname(cmake) != os.path.dirname(path) or \
                    "tidegate_tests" not in cmake_words(tree.texts[cmake]):
                yield (path, 1, "dead-file",
                       "its folder has no CMakeLists.txt that calls tidegate_tests; it never runs")
        elif path.startswith("bench/"):
            if os.path.basename(path)[:-3] not in cmake_words(tree.texts[cmake]):
                yield path, 1, "dead-file", f"{cmake} does not name it; nothing builds it"
        elif not names(tree, cmake, path):
            yield path, 1, "dead-file", f"{cmake} does not name it; nothing builds it"


def check_confined(tree):
    for path in tree.code():
        code = without_texts(without_comments(tree.texts[path])).splitlines()
        for rule, pattern, homes, tests, what in CONFINED:
            if path.startswith(homes + tests):
                continue
            for number, line in enumerate(code, 1):
                if pattern.search(line):
                    yield path, number, rule, what


def check_words(tree):
    for path, text in tree.texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if UNFINISHED.search(line) and not path.startswith(NAMES_UNFINISHED):
                yield path, number, "unfinished", "finish it, or open an issue; main has no such marks"
            if MACHINE_PATH.search(line) and not path.startswith("tests/"):
                yield path, number, "machine-path", "a path of one machine: " + line.strip()[:80]


CHECKS = (check_layer_table, check_includes, check_table_is_what_is_there, check_libraries,
          check_file_length, check_function_length, check_dead_files, check_confined, check_words)


def findings(root):
    tree = Tree(root)
    return [finding for check in CHECKS for finding in check(tree)]


def main(argv):
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 64
    found = findings(argv[1])
    for path, line, rule, what in found:
        print(f"{path}:{line}: [{rule}] {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
