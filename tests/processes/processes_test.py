"""Each rule of processes.py finds what it is for.

usage: processes_test.py OFFENDER BARE     two programs that the build made: one with everything in
                                           it, one with nothing of ours
"""

import os
import subprocess
import sys
import tempfile
import unittest

import elf
import processes

OFFENDER = BARE = ""


class ProcessesTest(unittest.TestCase):
    def findings(self, name):
        return " ".join(processes.check_program(name, OFFENDER))

    def test_the_reader_agrees_with_the_linker(self):
        told = subprocess.run(["readelf", "-dW", OFFENDER], capture_output=True, text=True,
                              check=True).stdout
        needed = elf.Elf(OFFENDER).needed()
        self.assertEqual(len(needed), told.count("(NEEDED)"))
        for name in needed:
            self.assertIn(f"[{name}]", told)
        named = subprocess.run(["nm", OFFENDER], capture_output=True, text=True, check=True).stdout
        listed = {line.split()[-1].split("@")[0] for line in named.splitlines()}
        self.assertLessEqual(listed, {s.split("@")[0] for s in elf.Elf(OFFENDER).symbols()})
        self.assertIn("zmq_ctx_new", elf.Elf(OFFENDER).imports())
        self.assertNotIn("main", elf.Elf(OFFENDER).imports())

    def test_every_library_and_module_that_a_row_forbids_is_found(self):
        for name, row in processes.PROGRAMS.items():
            found = self.findings(name)
            for module in row.no_modules:
                self.assertIn(f" of tidegate::{module}", found, name)
            for library in set(row.no_libraries) & {"zmq", "sqlite"}:
                self.assertRegex(found, name + " needs " + processes.LIBRARIES[library])
                self.assertIn(f"{name} calls {processes.IMPORTS[library]}", found)

    def test_only_the_trainer_may_see_records(self):
        for name in processes.PROGRAMS:
            found = self.findings(name)
            for module in processes.RECORDS:
                expect = self.assertNotIn if name == "tidegate-trainer" else self.assertIn
                expect(f"tidegate::{module}", found)

    def test_only_link_and_coordinator_may_need_zmq(self):
        for name in processes.PROGRAMS:
            allowed = name in ("tidegate-link", "tidegate-coordinator")
            (self.assertNotIn if allowed else self.assertIn)("needs libzmq", self.findings(name))

    def test_a_module_is_found_by_its_whole_name(self):
        self.assertIsNone(processes.in_module(["_ZN8tidegate12gate_process1fEv"], "gate"))
        self.assertIsNone(processes.in_module(["_ZN8tidegate4gateEv"], "gat"))
        self.assertIsNotNone(processes.in_module(["_ZNSt6vectorIN8tidegate7records1REE"], "records"))

    def test_a_program_without_its_work_or_without_symbols(self):
        found = " ".join(processes.check_program("tidegate-link", BARE))
        self.assertIn("does not need zmq", found)
        self.assertIn("has nothing of tidegate::transport", found)
        with tempfile.TemporaryDirectory() as folder:
            stripped = os.path.join(folder, "stripped")
            subprocess.run(["strip", "-o", stripped, OFFENDER], check=True)
            self.assertIn("stripped", " ".join(processes.check_program("tidegate-gate", stripped)))

    def test_what_is_no_program_is_an_error(self):
        with self.assertRaises(ValueError):
            elf.Elf(__file__)

    def test_a_program_that_is_missing_or_unknown(self):
        with tempfile.TemporaryDirectory() as root:
            for module, name in (("src/onshore/link", "tidegate-link"), ("src/new", "tidegate-new")):
                os.makedirs(os.path.join(root, module))
                with open(os.path.join(root, module, "CMakeLists.txt"), "w", encoding="utf-8") as f:
                    f.write(f"tidegate_program(\n  {name} SOURCES main.cc)\n")
            found = list(processes.check_complete(root, []))
            self.assertEqual(found, ["tidegate-new of src/new has no row in "
                                     "tests/processes/processes.py",
                                     "src/onshore/link is there and tidegate-link is not built"])
            self.assertEqual(len(list(processes.check_complete(root, ["tidegate-link"]))), 1)


if __name__ == "__main__":
    BARE, OFFENDER = sys.argv.pop(), sys.argv.pop()
    unittest.main()
