"""Installs into an empty prefix and builds and runs an example of each language against it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["TIDEGATE_SOURCE"])
BUILD = pathlib.Path(os.environ["TIDEGATE_BUILD"])
TINY = SOURCE / "tests/golden/tiny_llama"


def run(*words, **more):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=200, **more)


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls._dir = tempfile.TemporaryDirectory(prefix="tidegate-prefix-")
        cls.dir = pathlib.Path(cls._dir.name)
        cls.prefix = cls.dir / "prefix"
        for component in ("sdk", "python"):
            done = run("cmake", "--install", BUILD, "--component", component, "--prefix", cls.prefix)
            assert done.returncode == 0, done.stderr
        (cls.dir / "train.jsonl").write_text(
            "".join(json.dumps({"prompt": f"code {i} is in ", "completion": f"row {i % 3}"}) + "\n" for i in range(8)))

    @classmethod
    def tearDownClass(cls):
        cls._dir.cleanup()

    def copy(self, name):
        return pathlib.Path(shutil.copytree(SOURCE / "examples" / name, self.dir / name))

    def succeed(self, done):
        if "PERMISSION_DENIED" in done.stderr and "wall" in done.stderr:
            self.skipTest("this machine cannot raise the walls of a trainer: " + done.stderr[-300:])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_nothing_of_others_is_in_the_headers(self):
        headers = sorted((self.prefix / "include/tidegate").iterdir())
        self.assertLessEqual(len(headers), 10)
        for header in headers:
            for line in header.read_text().splitlines():
                if line.startswith("#include"):
                    name = line.split()[1].strip('<>"')
                    self.assertTrue(name.startswith("tidegate/") or "/" not in name, f"{header.name}: {line}")

    def test_cpp_by_find_package(self):
        source = self.copy("local_finetune_cpp")
        self.succeed(run("cmake", "-S", source, "-B", self.dir / "cpp", "-G", "Ninja",
                         f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"))
        self.succeed(run("cmake", "--build", self.dir / "cpp"))
        said = self.succeed(run(self.dir / "cpp/local_finetune", TINY, self.dir / "train.jsonl", self.dir / "ft",
                                env=dict(os.environ, OMP_NUM_THREADS="1")))
        self.assertIn("step 8 of 8: loss", said)
        self.assertTrue((self.dir / "ft/adapter_model.safetensors").is_file())

    def test_c_by_pkg_config(self):
        source = self.copy("embed_in_c")
        self.succeed(run("make", "-C", source, env=dict(os.environ, PKG_CONFIG_PATH=str(self.prefix / "lib/pkgconfig"))))
        done = run(source / "embed_in_c", self.dir)
        self.assertEqual(done.returncode, 9)  # nobody listens there
        self.assertIn("UNAVAILABLE", done.stderr)

    def test_python(self):
        site = next((self.prefix / "lib").glob("python3*")) / "site-packages"
        self.assertTrue((site / "tidegate/py.typed").is_file())
        code = ("import sys, tidegate\nassert tidegate.__file__.startswith(sys.argv[1])\n"
                "print(tidegate.finetune(sys.argv[2], sys.argv[3], output_dir=sys.argv[4], max_steps=1, threads=1, max_length=64,"
                " packing=False))\n")
        said = self.succeed(run(sys.executable, "-c", code, self.prefix, TINY, self.dir / "train.jsonl", self.dir / "py",
                                env=dict(os.environ, PYTHONPATH=str(site))))
        self.assertEqual(said.strip(), str(self.dir / "py"))


if __name__ == "__main__":
    unittest.main()
