"""That pages.py finds what it is for: each kind of staleness, in a copy of the pages."""

import os
import re
import shutil
import tempfile
import unittest

import pages

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))


class Stale(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = self.folder.name
        shutil.copytree(os.path.join(ROOT, "protocols"), os.path.join(self.root, "protocols"))
        # What pages link to and states name lies elsewhere in the tree.
        for name in ("docs", "src", "tests"):
            os.symlink(os.path.join(ROOT, name), os.path.join(self.root, name))

    def change(self, path, old, new):
        path = os.path.join(self.root, "protocols", path)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertIn(old, text)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new, 1))

    def found(self):
        return "\n".join(pages.findings(self.root))

    def test_the_pages_as_they_are_have_no_finding(self):
        self.assertEqual(self.found(), "")

    def test_a_value_an_offset_a_size_or_a_type_that_is_not_the_vectors(self):
        self.change("messages/want.md", "`524288`", "`524289`")
        self.assertIn("credit_bytes is said to be 524289", self.found())
        self.change("messages/want.md", "| 36 | 4 | u32 |", "| 37 | 4 | u32 |")
        self.assertIn("count is said to be at 37", self.found())
        self.change("messages/want.md", "| 40 | 8 | u64 |", "| 40 | 8 | u32 |")
        self.assertIn("credit_bytes is said to have 8 bytes; a u32 has 4", self.found())
        self.change("messages/commit.md", "08090a0b…24252627", "08090a0b…24252628")
        self.assertIn("content is said to be 08090a0b…24252628", self.found())
        self.change("documents/receipt.md", '`"north"`', '`"south"`')
        self.assertIn('key.site is said to be "south"', self.found())

    def test_a_vector_that_changed(self):
        self.change("vectors/v1/lease.hex", "4d", "4e")
        self.assertIn("lease.md: the worked example is not the vector", self.found())
        self.change("vectors/v1/have.hex", "ff01", "ff")
        self.assertIn("have.md: the byte table ends at", self.found())

    def test_a_field_that_came_went_or_moved(self):
        self.change("messages.h", "ar(content, first, count, credit_bytes)",
                    "ar(content, count, first, credit_bytes)")
        self.assertIn("want.md: the byte table has the fields", self.found())
        self.change("documents.h", "ar(job, round, reason, unix_millis)", "ar(job, round, reason)")
        self.assertIn("abandon-notice.md: the grammar defines", self.found())
        self.change("header.h", "  uint32_t reserved = 0; ", "  uint32_t flags = 0; ")
        self.assertIn("header.md: the byte table has the fields", self.found())

    def test_a_message_or_document_without_a_page_and_a_page_of_nothing(self):
        self.change("header.h", "  kError = 14,\n", "  kError = 14,\n  kFarewell = 15,\n")
        self.change("documents.cc", "protocols::Receipt)\n",
                    "protocols::Receipt)\nTIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::SiteRevoked)\n")
        os.rename(os.path.join(self.root, "protocols/messages/lease.md"),
                  os.path.join(self.root, "protocols/messages/rent.md"))
        found = self.found()
        self.assertIn("protocols/messages/farewell.md: is missing", found)
        self.assertIn("protocols/documents/site-revoked.md: is missing", found)
        self.assertIn("protocols/messages/lease.md: is missing", found)
        self.assertIn("protocols/messages/rent.md: is of nothing in the code", found)
        self.assertIn("lease.hex: is worked out on 0 pages", found)
        self.assertIn("links to messages/lease.md, which is not there", found)

    def test_a_section_that_is_missing_and_an_example_cut_elsewhere(self):
        self.change("messages/error.md", "## Security", "## Safety")
        self.assertIn('error.md: has no section "Security"', self.found())
        self.change("messages/credit.md", "  bytes\n```", "  credit\n```")
        self.assertIn("credit.md: the worked example's fields are not those", self.found())

    def test_a_state_that_the_table_or_the_diagram_lacks(self):
        path = os.path.join(self.root, "protocols/states.md")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        edge = re.search(r"^  (\w+) --> (\w+) : .*\n", text, re.MULTILINE)
        self.change("states.md", edge.group(0), f"  Nowhere --> {edge.group(2)}\n")
        found = self.found()
        self.assertIn("nothing leads to the state Nowhere", found)
        self.assertIn(f"the table goes from {edge.group(1)} to {edge.group(2)}, the diagram does not",
                      found)
        self.assertIn(f"the diagram goes from Nowhere to {edge.group(2)}, the table does not", found)

    def test_a_function_that_a_row_names_and_nobody_has(self):
        self.change("states.md", "`OnHello`", "`OnGoodbye`")
        self.assertIn("OnGoodbye is not in the file named before it", self.found())


if __name__ == "__main__":
    unittest.main()
