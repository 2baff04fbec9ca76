"""Each rule of tidy.py finds what it is for, and nothing in a tree that is clean."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import tidy

CLEAN = {
    "cmake/layers.txt": "# comment\nkernels   :\nsrc/base  :\nsrc/gate  : src/base\n"
                        "src/gate/inner : src/gate\nsrc/crypto :\n[Pkg::ZMQ] : src/base\n",
    "kernels/CMakeLists.txt": "tidegate_library(SOURCES sum.cc internal/cpu.cc)\n",
    "kernels/sum.cc": '#include "kernels/internal/cpu.h"\n#include <vector>\n',
    "kernels/internal/cpu.h": "#pragma once\n",
    "kernels/internal/cpu.cc": '#include "kernels/internal/cpu.h"\n',
    "src/base/CMakeLists.txt": "tidegate_library(SOURCES status.cc LINK Pkg::ZMQ)\n",
    "src/base/status.cc": '#include "base/status.h"\n',
    "src/base/status.h": "// Not zmq::socket, EVP_Digest or cereal::x, these are words.\n",
    "src/gate/CMakeLists.txt": "tidegate_library(SOURCES review.cc DEPS src/base)\n",
    "src/gate/review.cc": '#include "base/status.h"\n#include "gate/review.h"\n'
                          'const char* kWhere = "zmq_ctx_new() EVP_x";  // "\n',
    "src/gate/review.h": "#pragma once\n",
    "src/gate/inner/CMakeLists.txt": "tidegate_library(SOURCES a.cc DEPS src/gate)\n",
    "src/gate/inner/a.cc": '#include "gate/review.h"\n',
    "tests/gate/CMakeLists.txt": "tidegate_tests(SOURCES helper.cc)\n",
    "tests/gate/review_test.cc": '#include "kernels/internal/cpu.h"\n#include "helper.h"\n',
    "tests/gate/helper.cc": '#include "tests/gate/helper.h"\n',
    "tests/gate/helper.h": 'const char* kScratch = "/tmp/x";\n',
    "docs/page.md": "Systems have /tmp and /etc/hosts; see https://example.org/work/page.\n",
}

LONG_FUNCTION = "int Long(int a,\n         int b) {\n" + "#if 1\n#endif\n" * 59 + "}\n"


class TidyTest(unittest.TestCase):
    def findings(self, changes):
        """The findings of the clean tree with these files put in (None: taken away)."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**CLEAN, **changes}.items():
                if text is None:
                    continue
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            return [(path, line, rule) for path, line, rule, _ in tidy.findings(root)]

    def expect(self, rule, path, line, text):
        self.assertEqual(self.findings({path: text}), [(path, line, rule)])

    def test_a_clean_tree_has_no_findings(self):
        self.assertEqual(self.findings({}), [])

    def test_an_include_that_the_table_does_not_allow(self):
        self.expect("layers", "src/base/status.cc", 2,
                    '#include "base/status.h"\n#include "gate/review.h"\n')
        self.expect("layers", "src/base/status.cc", 2,
                    '#include "base/status.h"\n  #  include "src/gate/review.h"\n')

    def test_the_inner_module_is_not_the_outer_one(self):
        found = self.findings({"src/gate/inner/a.h": "",
                               "src/gate/review.cc": '#include "gate/inner/a.h"\n'
                                                     '#include "gate/review.h"\n'
                                                     '#include "base/status.h"\n'})
        self.assertEqual(found, [("src/gate/review.cc", 1, "layers")])

    def test_an_include_of_ours_with_angle_brackets_is_held_to_the_table_too(self):
        found = self.findings({"src/base/status.cc": '#include "base/status.h"\n'
                                                     "#include <gate/review.h>\n"})
        self.assertEqual(found, [("src/base/status.cc", 2, "layers")] * 2)

    def test_an_include_that_names_no_file(self):
        self.expect("layers", "src/base/status.cc", 2,
                    '#include "base/status.h"\n#include "status.h"\n')

    def test_an_include_in_a_comment_is_none(self):
        self.assertEqual(self.findings({"src/base/status.cc": '#include "base/status.h"\n'
                                        '// #include "gate/review.h"\n/*\n'
                                        '#include "gate/review.h"\n*/\n'}), [])

    def test_code_outside_every_module(self):
        found = self.findings({"src/stray.h": "", "src/base/status.cc":
                               '#include "base/status.h"\n#include "stray.h"\n'})
        self.assertEqual(found, [("src/base/status.cc", 2, "layers"), ("src/stray.h", 1, "layers")])

    def test_a_table_with_a_circle_or_an_unknown_name(self):
        table = CLEAN["cmake/layers.txt"].replace("src/base  :", "src/base  : src/gate")
        found = self.findings({"cmake/layers.txt": table})  # nor does base use it
        self.assertEqual(found, [("cmake/layers.txt", 1, "layers")] * 2)

    def test_a_table_that_is_missing(self):
        self.assertIn(("cmake/layers.txt", 1, "layers"), self.findings({"cmake/layers.txt": None}))

    def test_a_row_that_is_wider_than_what_is_there(self):
        table = CLEAN["cmake/layers.txt"].replace("src/gate  : src/base", "src/gate  : src/base kernels")
        self.expect("layers", "cmake/layers.txt", 1, table)

    def test_deps_that_are_not_what_is_included(self):
        cmake = "src/gate/CMakeLists.txt"
        self.expect("layers", cmake, 1, CLEAN[cmake].replace("src/base", "src/base src/crypto"))
        self.expect("layers", cmake, 1, CLEAN[cmake].replace("DEPS src/base", ""))

    def test_a_library_that_its_row_does_not_allow(self):
        cmake = "src/gate/CMakeLists.txt"
        linked = CLEAN[cmake].replace("DEPS", "LINK Pkg::ZMQ DEPS")
        self.expect("libraries", cmake, 1, linked)
        self.expect("libraries", cmake, 1, linked.replace("ZMQ", "NEW"))
        header = CLEAN["src/gate/review.h"]
        found = self.findings({"src/gate/review.h": header + "#include <sqlite3.h>\n"})
        self.assertEqual(found, [(cmake, 1, "libraries")])

    def test_a_library_row_that_nobody_uses(self):
        self.expect("libraries", "cmake/layers.txt", 1,
                    CLEAN["cmake/layers.txt"].replace("ZMQ] : src/base", "ZMQ] : src/base kernels"))

    def test_a_file_that_is_too_long(self):
        header = CLEAN["src/gate/review.h"]
        self.expect("file-length", "src/gate/review.h", 801, header + "\n" * 800)
        self.assertEqual(self.findings({"src/gate/review.h": header + "\n" * 799}), [])

    def test_a_function_that_is_too_long(self):
        self.expect("function-length", "src/gate/review.h", 2, "\n" + LONG_FUNCTION)
        shorter = LONG_FUNCTION.replace("#if 1\n", "", 1)
        self.assertEqual(self.findings({"src/gate/review.h": shorter}), [])

    def test_a_source_that_nothing_builds(self):
        self.expect("dead-file", "src/gate/old.cc", 1, "")
        self.expect("dead-file", "kernels/internal/sum.cc", 1, "")
        self.expect("dead-file", "tests/gate/other.cc", 1, "")
        by_variable = "tidegate_library(SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/review.cc DEPS src/base)\n"
        self.assertEqual(self.findings({"src/gate/CMakeLists.txt": by_variable}), [])
        script = {"src/gate/CMakeLists.txt": "src/base", "src/gate/run.cmake": "run(${ROOT}/a/review.cc)"}
        self.assertEqual(self.findings(script), [])
        found = self.findings({"src/gate/CMakeLists.txt": "src/base # review.cc\n"})
        self.assertEqual(found, [("src/gate/review.cc", 1, "dead-file")])

    def test_a_header_that_nothing_includes(self):
        self.expect("dead-file", "src/gate/old.h", 1, "")

    def test_a_test_that_never_runs(self):
        self.expect("dead-file", "tests/other/new_test.cc", 1, "")
        self.expect("dead-file", "tests/gate/deeper/new_test.cc", 1, "")
        found = self.findings({"tests/gate/CMakeLists.txt": "add_library(x helper.cc)\n"})
        self.assertEqual(found, [("tests/gate/review_test.cc", 1, "dead-file")])

    def test_libraries_out_of_their_homes(self):
        header = "src/gate/review.h"
        self.expect("evp", header, 1, "int n = EVP_DigestInit(c);\n")
        self.assertEqual(self.findings({header: "#include <openssl/evp.h>\n"}),
                         [("src/gate/CMakeLists.txt", 1, "libraries"), (header, 1, "evp")])
        self.expect("zmq", header, 1, "void* c = zmq_ctx_new();\n")
        self.expect("zmq", header, 1, "zmq::context_t c;\n")
        self.assertEqual(self.findings({header: "\n#include <zmq.hpp>\n"}),
                         [("src/gate/CMakeLists.txt", 1, "libraries"), (header, 2, "zmq")])
        self.assertEqual(self.findings({header: "#include <cereal/cereal.hpp>\n"}),
                         [("src/gate/CMakeLists.txt", 1, "libraries"), (header, 1, "cereal")])
        self.expect("cereal", header, 1, "cereal::Size x;\n")
        self.expect("cereal", "tests/gate/helper.h", 1, "cereal::Size x;\n")

    def test_cuda_that_the_emulator_does_not_know(self):
        header = "src/base/status.h"
        for code in ("__shared__ float sum[32];\n", "kernel<<<1, 32>>>(p);\n", "atomicAdd(p, 1);\n",
                     "#include <cuda_bf16.h>\n", "nvcuda::wmma::mma_sync(d, a, b, c);\n"):
            self.expect("simt", header, 1, code)

    def test_who_may_sign_a_release(self):
        header = "src/base/status.h"
        self.expect("permit", header, 1, "permit::ReleasePass pass;\n")
        self.expect("permit", header, 2, "namespace gate {\nclass Sealing {};\n}\n")
        self.expect("permit", header, 1, "class Review {\n};\n")
        self.expect("bare", header, 1, "internal::BareEd25519::Sign(key, bytes);\n")
        self.expect("nonce", header, 1, "GcmNonce nonce{};\n")
        self.expect("nonce", header, 1, "crypto::internal::SetupSenderWith(a, b, c, d);\n")
        self.expect("wire", header, 1, "std::unique_ptr<transport::Client> client;\n")
        self.expect("outbound", header, 1, "client_->Send(channel, type, bytes);\n")
        self.assertEqual(self.findings({header: "class Sealing;\n"}), [])

    def test_unfinished_work(self):
        for mark in ("TO" + "DO", "FIX" + "ME", "X" * 3):
            self.expect("unfinished", "src/gate/review.h", 2, f"\n// {mark}: later\n")
            self.expect("unfinished", "docs/page.md", 1, f"{mark}\n")

    def test_a_path_of_one_machine(self):
        for path in ("/work/main", "/work", "/tmp/out", "/opt/tool/bin", "/home/me", "/root/x"):
            self.expect("machine-path", "docs/page.md", 2, f"\nin `{path}`\n")

    @unittest.skipUnless(shutil.which("git"), "git is missing")
    def test_git_decides_which_files_count(self):
        with tempfile.TemporaryDirectory() as root:
            with open(os.path.join(root, "new.md"), "w", encoding="utf-8") as file:
                file.write("FIX" + "ME\n")
            subprocess.run(["git", "init", "-q", root], check=True)
            self.assertEqual(tidy.list_files(root), [])
            subprocess.run(["git", "-C", root, "add", "new.md"], check=True)
            self.assertEqual(tidy.list_files(root), ["new.md"])

    def test_the_program_exits_by_its_findings(self):
        with tempfile.TemporaryDirectory() as root:
            done = subprocess.run([sys.executable, tidy.__file__, root], capture_output=True,
                                  text=True, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("cmake/layers.txt:1: [layers]", done.stdout)


if __name__ == "__main__":
    unittest.main()
