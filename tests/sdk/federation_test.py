"""A federation of real processes from Python: the example as it is, and a site whose rounds a program outside trains,
whose first update people hold, and whose client lies in between."""

import array
import contextlib
import functools
import io
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import tidegate

SOURCE = pathlib.Path(os.environ["TIDEGATE_SOURCE"])
TINY = SOURCE / "tests/golden/tiny_llama"
for folder in ("federation_from_python", "four_eyes_release"):
    sys.path.insert(0, str(SOURCE / "examples" / folder))
import federation as example  # noqa: E402
import four_eyes  # noqa: E402

NOBODY = 65534
SECONDS = 60


def needs_walls(folder):
    """Skips by name where the sites' walls cannot be raised."""
    for log in pathlib.Path(folder).glob("*.log"):
        text = log.read_text(errors="replace")
        if "onshore_ended" in text and "PERMISSION_DENIED" in text and "wall" in text:
            raise unittest.SkipTest("this machine cannot raise the walls of a site: " + text[-300:])


def trained(folder, by):
    """What an outside trainer would make of the adapter: every number of B moved by `by`."""
    file = pathlib.Path(folder) / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    for name, tensor in json.loads(raw[8:8 + size]).items():
        if "lora_B" not in name:
            continue
        begin, end = (8 + size + at for at in tensor["data_offsets"])
        values = array.array("f", bytes(raw[begin:end]))
        raw[begin:end] = array.array("f", [value + by for value in values]).tobytes()
    file.write_bytes(raw)


def wait_for(ask, what):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = ask()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("never: " + what)


class Example(unittest.TestCase):
    def test_two_sites_and_a_coordinator(self):
        with tempfile.TemporaryDirectory(prefix="tidegate-fed-") as folder:
            out = pathlib.Path(folder) / "out"
            try:
                example.main(str(TINY), str(out))
            except Exception:
                needs_walls(out)
                raise
            self.assertTrue((out / "adapter" / "adapter_model.safetensors").is_file())

    def test_what_a_coordinator_publishes(self):
        with tempfile.TemporaryDirectory(prefix="tidegate-fed-") as folder, \
                example.Federation(pathlib.Path(folder) / "out", TINY, {}) as federation:
            coordinator = federation.start()
            self.assertEqual(coordinator.bases(), [])
            for name in ("tiny", "other"):
                tidegate.run_tidegate("base", "publish", TINY, "--dir", federation.coordinator_dir, "--name", name,
                                      "--licence", "CC0-1.0", "--no_patch")
            tidegate.run_tidegate("base", "revoke", "tiny@1", "--dir", federation.coordinator_dir, "--reason", "a test")
            bases = coordinator.bases()
            self.assertEqual([(b.name, b.version, b.licence, b.revoked) for b in bases],
                             [("other", 1, "CC0-1.0", False), ("tiny", 1, "CC0-1.0", True)])
            self.assertEqual(bases[0].hash, bases[1].hash)
            self.assertEqual(len(bases[0].hash), 64)
            self.assertGreater(bases[0].bytes, 100000)

    def test_four_eyes(self):
        with tempfile.TemporaryDirectory(prefix="tidegate-fed-") as folder:
            out = pathlib.Path(folder) / "out"
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said):
                    four_eyes.main(str(TINY), str(out))
            except Exception:
                needs_walls(out)
                raise
        lines = said.getvalue()
        self.assertRegex(lines, r"at the coordinator: 0; still held: \['\S+', '\S+'\]\n")
        self.assertRegex(lines, "harbour: update_refused round=1")
        self.assertRegex(lines, "hill: update_released round=1")
        self.assertEqual([line.split()[-1] for line in lines.splitlines() if line.startswith("coordinator: accepted")], ["hill"])
        self.assertRegex(lines, "harbour's ledger: update refused by approval: bob refused it: not before the audit")
        self.assertEqual(sorted(line.split(": ")[1] for line in lines.splitlines() if line.startswith("hill's ledger")),
                         ["released by alice", "released by bob"])


def at_a_site(step):
    """Skips a step that failed because the site could not raise its walls."""
    @functools.wraps(step)
    def guarded(self):
        try:
            step(self)
        except Exception:
            needs_walls(self.dir / "fed")
            raise
    return guarded


class Outside(unittest.TestCase):
    @at_a_site
    def setUp(self):
        self._dir = tempfile.TemporaryDirectory(prefix="tidegate-fed-")
        self.addCleanup(self._dir.cleanup)
        self.dir = pathlib.Path(self._dir.name)
        self.federation = example.Federation(self.dir / "fed", TINY, {"lab": example.invented("the lab")})
        self.addCleanup(self.federation.__exit__)
        site = self.federation.site_dir("lab")
        # Root is no approver: then it is another user, whom the socket lets in.
        self.approver = os.geteuid() or NOBODY
        if os.geteuid() == 0:
            os.chmod(self.dir, 0o755)
            os.chmod(self.dir / "fed", 0o755)
            os.chmod(site, 0o711)
            with open(site / "site.toml", "a") as config:
                config.write(f"api_group = {NOBODY}\napi_users = [{NOBODY}]\n")
        with open(site / "policy.toml", "a") as policy:
            policy.write(f'\n[approval]\nhold = "first"\nneeded = 1\napprovers = {{ clerk = "uid:{self.approver}" }}\n')
        self.coordinator = self.federation.start()
        self.site = self.federation.site("lab")
        self.site.pause()

    def as_approver(self, code):
        """Python as the approver's user."""
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        # Where that user can read it, whoever owns the checkout.
        package = self.dir / "package"
        if not package.exists():
            shutil.copytree(pathlib.Path(tidegate.__file__).parent, package / "tidegate")
        env = dict(os.environ, PYTHONPATH=str(package))
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, env=env,
                              cwd=self.dir, **user)

    def lie(self):
        """A client that takes the trainer's place and sends rubbish: its session ends, and nothing else."""
        liar = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        liar.connect(str(self.federation.site_dir("lab") / "api.sock"))
        read_end, write_end = os.pipe()
        back_read, back_write = os.pipe()
        header = struct.pack("<IHHIIII", 0x31415454, 1, 1, 1, 0, 0, 0)
        liar.send(header)
        liar.recv(1 << 14)
        liar.sendmsg([struct.pack("<IHHIIII", 0x31415454, 1, 17, 2, 0, 0, 0)],
                     [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read_end, back_write]))])
        self.assertEqual(struct.unpack("<IHHIIII", liar.recv(1 << 14)[:24])[5], 0)
        os.close(read_end), os.close(back_write)
        os.write(write_end, b"\x07" * 4096)
        ended = struct.unpack("<IHHIIII", liar.recv(1 << 14)[:24])
        self.assertEqual(ended[2], 33)
        for fd in (write_end, back_read):
            os.close(fd)
        liar.close()

    @at_a_site
    def test_rounds_trained_outside_are_judged_held_and_released_by_a_user(self):
        job = self.federation.submit(self.coordinator, example.JOB + "")
        wait_for(lambda: self.site.status().job, "the site has the job")
        self.lie()
        verdicts = []
        for round_ in self.site.rounds(self.dir / "round"):
            self.assertEqual(round_.local_steps, 2)
            if round_.number == 1:
                self.first_round(round_, verdicts)
            else:
                trained(round_.adapter, 2**-9)
                verdicts.append(round_.submit(round_.adapter, weight=3, timeout=SECONDS))
        self.assertEqual([v.released for v in verdicts], [True, True], verdicts)
        wait_for(lambda: self.coordinator.job(job.id).ended, "the job's end")
        adapter = self.coordinator.export(job.id, self.dir / "adapter")
        raw = (pathlib.Path(adapter) / "adapter_model.safetensors").read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        for name, tensor in json.loads(raw[8:8 + size]).items():
            if "lora_B" in name:
                begin, end = (8 + size + at for at in tensor["data_offsets"])
                # B was zero: two rounds of one site, exact in fixed32.
                self.assertEqual(set(array.array("f", raw[begin:end])), {2**-8 + 2**-9})
        self.check_ledger()
        log = (self.dir / "fed" / "lab.log").read_text(errors="replace")
        self.assertNotIn("name=gate how=", log)
        self.assertEqual(log.count("how=crash"), 1, log)  # the session that lied

    @at_a_site
    def test_local_jobs_at_the_site_and_what_comes_of_them(self):
        data = self.dir / "mine.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in example.invented("the yard")))
        counted = self.site.start("data-check", data=data, base=str(TINY), max_length=64).result(SECONDS)
        self.assertEqual(counted["records"], 12)
        job = self.site.start("finetune", data=data, base=str(TINY), output_dir="local/yard", max_steps=2,
                              logging_steps=1, max_length=64, threads=1, dtype="f32")
        steps = [told.step for told in job if isinstance(told, tidegate.Step)]
        self.assertEqual(steps, [1, 2])
        self.assertEqual([(a.name, a.kept) for a in self.site.adapters()], [("yard", False)])
        copy = self.site.save_adapter(self.dir / "copy", "yard")
        self.assertEqual((pathlib.Path(copy) / "adapter_model.safetensors").read_bytes(),
                         (self.federation.site_dir("lab") / "local/yard/adapter_model.safetensors").read_bytes())
        listed = tidegate.run_tidegate("site", "adapters", "--dir", self.federation.site_dir("lab"))
        self.assertEqual([a["folder"] for a in listed], ["local/yard"])
        self.site.set_dataset("records", data)
        self.assertEqual([(d.name, d.source, d.bytes) for d in self.site.datasets()][0],
                         ("records", "descriptor", data.stat().st_size))

    def first_round(self, round_, verdicts):
        # Of another shape: said so, and the round stays open.
        with self.assertRaises(tidegate.Error) as caught:
            round_.submit(self.wrong_adapter(), timeout=SECONDS)
        self.assertIn("shape", caught.exception.message)
        trained(round_.adapter, 2**-8)
        with self.assertRaises(tidegate.Error) as caught:
            round_.submit(round_.adapter, weight=5, train_loss=1.25, timeout=1)
        self.assertEqual(caught.exception.code, "DEADLINE_EXCEEDED")
        name = wait_for(self.site.held, "the update is held")[0]
        review = self.site.review(name)
        self.assertEqual(review["round"], 1)
        self.assertIn("clerk", review["approvers"])
        if os.geteuid() == 0:
            # Root may use the socket, and is no approver.
            with self.assertRaises(tidegate.Error) as caught:
                self.site.release(name)
            self.assertEqual(caught.exception.code, "PERMISSION_DENIED")
        held = tidegate.run_tidegate("site", "held", "--dir", self.federation.site_dir("lab"))
        self.assertEqual(held, [name])
        said = self.as_approver(f"import tidegate\n"
                                f"tidegate.Site({str(self.federation.site_dir('lab') / 'api.sock')!r})"
                                f".release({name!r}, 'looked at it')\n")
        self.assertEqual(said.returncode, 0, said.stderr)
        verdicts.append(round_.verdict(timeout=SECONDS))

    def wrong_adapter(self):
        folder = self.dir / "wrong"
        if not folder.exists():
            data = self.dir / "wrong.jsonl"
            data.write_text('{"text": "nothing to see"}\n')
            tidegate.finetune(TINY, data, output_dir=folder, max_steps=1, lora_r=2, max_length=64, dtype="f32",
                              threads=1)
        return folder

    def check_ledger(self):
        leaves = self.site.ledger()
        kinds = [leaf["type"] for leaf in leaves]
        self.assertEqual(kinds.count("outside"), 2)
        decision = leaves[kinds.index("decision")]
        self.assertEqual((decision["approver"], decision["uid"], decision["reason"]),
                         ("clerk", self.approver, "looked at it"))
        self.assertLess(kinds.index("decision"), kinds.index("intent"))
        found = wait_for(lambda: (lambda f: f if f["receipts"] == 2 else None)(
            self.site.verify_ledger(self.federation.key)), "both receipts")
        self.assertTrue(found["verified"])
        self.site.export_ledger(self.federation.key, self.dir / "regulator")
        self.assertTrue((self.dir / "regulator" / "report.html").is_file())
        sys.path.insert(0, str(SOURCE / "examples/audit_the_ledger"))
        import audit
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            self.assertEqual(audit.audit(str(self.dir / "regulator"), self.federation.key), 0)
            self.assertEqual(audit.audit(str(self.dir / "regulator" / "ledger"), self.federation.key), 1)
        self.assertIn("released by clerk, trained by uid", said.getvalue())


if __name__ == "__main__":
    unittest.main()
