"""What a round without training takes in Flower and in NVFlare: two sites on loopback, real processes.

  python bench/round_baselines.py [--parameters 2000 10000000] [--rounds 8] [--only flower|nvflare]

The sites send back what they were given. Flower: a SuperLink, two SuperNodes and their apps, by its
message API. NVFlare: its simulator, a process for each client, with the client API. One line of JSON
for each platform and size, milliseconds from round to round, the first left out; "skipped" with the
reason where this python does not have the platform. Nothing here is needed by Tidegate.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

FLOWER_PROJECT = """
[project]
name = "idle"
version = "1.0.0"
description = "rounds without training"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "idle"
[tool.flwr.app.components]
serverapp = "idle.app:server"
clientapp = "idle.app:client"
[tool.flwr.app.config]
parameters = {parameters}
rounds = {rounds}
times = "{times}"
[tool.flwr.federations]
default = "here"
[tool.flwr.federations.here]
address = "127.0.0.1:{port}"
insecure = true
"""

FLOWER_APP = """
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    content = RecordDict({"arrays": message.content["arrays"],
                          "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)

class Timed(FedAvg):
    def aggregate_train(self, server_round, replies):
        out = super().aggregate_train(server_round, replies)
        with open(self.times, "a", encoding="utf-8") as text:
            text.write(f"{time.time()}\\n")
        return out

@server.main()
def main(grid, context):
    config = context.run_config
    strategy = Timed(fraction_evaluate=0.0)
    strategy.times = config["times"]
    arrays = ArrayRecord([np.zeros(int(config["parameters"]), np.float32)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]))
"""

NVFLARE_CLIENT = """
import sys
import time
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    if flare.get_site_name() == "site-1":
        with open(sys.argv[1], "a", encoding="utf-8") as text:
            text.write(f"{time.time()}\\n")
    flare.send(flare.FLModel(params=model.params))
"""

NVFLARE_JOB = """
import os
import sys
import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

parameters, rounds, script, times, folder = sys.argv[1:]
start = os.path.join(folder, "start.npy")
np.save(start, np.zeros(int(parameters), np.float32))
recipe = NumpyFedAvgRecipe(name="idle", initial_ckpt=start, min_clients=2, num_rounds=int(rounds),
                           train_script=script, train_args=times,
                           launch_external_process=False)
recipe.execute(SimEnv(num_clients=2, num_threads=2, workspace_root=os.path.join(folder, "site")))
"""


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def gaps(path):
    """Milliseconds between the lines' times, the first gap left out."""
    with open(path, encoding="utf-8") as lines:
        times = [float(line) for line in lines]
    return [1000 * (b - a) for a, b in zip(times[1:], times[2:])]


def wait_for_lines(path, count, seconds, alive):
    end = time.time() + seconds
    while time.time() < end and alive():
        if os.path.exists(path):
            with open(path, encoding="utf-8") as lines:
                if sum(1 for _ in lines) >= count:
                    return True
        time.sleep(0.2)
    return False


def flower(folder, parameters, rounds, log):
    beside = os.path.dirname(sys.executable)
    times = os.path.join(folder, "times")
    ports = [20000 + (os.getpid() * 7 + i) % 20000 for i in range(3)]
    write(
        os.path.join(folder, "app", "pyproject.toml"),
        FLOWER_PROJECT.format(parameters=parameters, rounds=rounds, times=times, port=ports[0]),
    )
    write(os.path.join(folder, "app", "idle", "__init__.py"), "")
    write(os.path.join(folder, "app", "idle", "app.py"), FLOWER_APP)
    environment = dict(
        os.environ,
        FLWR_HOME=os.path.join(folder, "home"),
        FLWR_TELEMETRY_ENABLED="0",
        PATH=beside + os.pathsep + os.environ["PATH"],
    )

    def start(name, *arguments):
        return subprocess.Popen(
            [os.path.join(beside, name), *arguments],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )

    running = [
        start(
            "flower-superlink", "--insecure", "--port", str(ports[0]),
            "--disable-runtime-dependency-installation",
        )
    ]
    try:
        time.sleep(5)
        for i in range(2):
            running.append(
                start(
                    "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{ports[0]}",
                    "--port", str(ports[1 + i]),
                )
            )
        time.sleep(5)
        subprocess.run(
            [os.path.join(beside, "flwr"), "run", os.path.join(folder, "app")],
            stdout=log, stderr=log, env=environment, check=True, timeout=60,
        )
        whole = wait_for_lines(
            times, rounds, 60 + 15 * rounds, lambda: all(p.poll() is None for p in running)
        )
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            process.wait(timeout=30)
    return gaps(times) if whole else None


def nvflare(folder, parameters, rounds, log):
    times = os.path.join(folder, "times")
    write(os.path.join(folder, "client.py"), NVFLARE_CLIENT)
    write(os.path.join(folder, "job.py"), NVFLARE_JOB)
    subprocess.run(
        [sys.executable, "job.py", str(parameters), str(rounds), "client.py", times, folder],
        stdout=log, stderr=log, cwd=folder, check=True, timeout=120 + 15 * rounds,
    )
    return gaps(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parameters", type=int, nargs="+", default=[2000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", choices=["flower", "nvflare"])
    args = parser.parse_args()
    for name, package, run in (("flower", "flwr", flower), ("nvflare", "nvflare", nvflare)):
        if args.only not in (None, name):
            continue
        record = {"bench": "round_baselines", "platform": name}
        try:
            record["version"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record["skipped"] = f"{sys.executable} does not have {package}"
            print(json.dumps(record), flush=True)
            continue
        for parameters in args.parameters:
            folder = tempfile.mkdtemp(prefix="round_baselines_")
            record["parameters"] = parameters
            record.pop("failed", None)
            with open(os.path.join(folder, "log"), "w", encoding="utf-8") as log:
                try:
                    millis = run(folder, parameters, args.rounds, log)
                except (OSError, subprocess.SubprocessError) as error:
                    millis = None
                    record["failed"] = str(error)[:200]
            if millis:
                record["median_ms"] = round(statistics.median(millis), 1)
                record["rounds"] = len(millis)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                record.setdefault("failed", "it did not end its rounds")
                record["log"] = os.path.join(folder, "log")
            record["load"] = round(os.getloadavg()[0], 2)
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
