# Thin: each target is one command a person could type.
BUILD ?= build
CMAKE_ARGS ?=
# How many tests run at once, among others.
CTEST_ARGS ?= -j$(shell nproc)

.PHONY: setup build deb test test-cuda test-asan test-tsan demo lint bench-aggregate bench-round bench-base bench-connections bench-sites bench-wire bench-finetune bench-chats bench-generate bench-pretrain test-peft docs fuzz soak clean
setup:
	scripts/setup.sh

build: setup
	cmake -S . -B $(BUILD) -G Ninja $(CMAKE_ARGS) $$(command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
	cmake --build $(BUILD)

test: build
	ctest --test-dir $(BUILD) --output-on-failure --no-tests=error $(CTEST_ARGS)

# The kernels on a GPU: here a machine without one fails, where `make test` skips them by name.
test-cuda: build
	TIDEGATE_REQUIRE_GPU=1 ctest --test-dir $(BUILD) --output-on-failure --no-tests=error -L gpu

# The same tests under sanitizers; what tsan leaves out, and why: CONTRIBUTING.md.
SANITIZER_CTEST_ARGS ?= -j2
test-asan test-tsan: preset = $(subst test-asan,asan-ubsan,$(subst test-tsan,tsan,$@))
test-asan test-tsan: setup
	cmake --preset $(preset) $$(command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
	cmake --build --preset $(preset)
	ctest --preset $(preset) $(SANITIZER_CTEST_ARGS)

# libFuzzer over every parser of foreign bytes, one target after the other (tests/fuzz/README.md).
# Needs clang, which `make setup` does not install. FUZZ_TARGETS: names, all if empty.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
fuzz: setup
	@command -v clang++ >/dev/null || { echo "make fuzz needs clang++: apt-get install clang" >&2; exit 1; }
	cmake --preset fuzz $$(command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
	cmake --build --preset fuzz
	tests/fuzz/run_libfuzzer.sh build-fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

# The Debian packages, in BUILD/packages.
deb: build
	cpack --config $(BUILD)/CPackConfig.cmake -B $(BUILD)/packages

# Two sites, one coordinator, real processes; offline once the model is in the cache.
demo: build
	scripts/demo.sh $(BUILD)

lint: setup
	git ls-files '*.h' '*.cc' '*.cu' | xargs clang-format --dry-run -Werror

# kill -9 in every log step of either shore, and while contents cross, with more seeds than
# `make test` has time for; the memory of every process over 1,500 rounds; and every byte of a
# session flipped, not a sample of them.
SOAK_SEEDS ?= 1-300
SOAK_TRANSFER_SEEDS ?= 1-200
SOAK_FAILOVER_SEEDS ?= 1-50
soak: build
	TIDEGATE_KILL_SEEDS=$(SOAK_SEEDS) $(BUILD)/bin/tests_federation_processes_test --gtest_filter='Kills.*'
	TIDEGATE_TRANSFER_SEEDS=$(SOAK_TRANSFER_SEEDS) $(BUILD)/bin/tests_federation_processes_test --gtest_filter='TransferKills.*'
	TIDEGATE_FAILOVER_SEEDS=$(SOAK_FAILOVER_SEEDS) $(BUILD)/bin/tests_offshore_test --gtest_filter='PostgresFailoverProcesses.Kills*'
	$(BUILD)/bin/round_processes_bench --base tests/golden/tiny_llama --dir $(BUILD)/soak_rounds --trainer real --rounds 1501 --rss_every 100 --limit_ms 1000
	TIDEGATE_FLIP_STRIDE=1 $(BUILD)/bin/tests_transport_test --gtest_filter='SessionTest.EveryByte*'

# A round's sum from sealed updates on disk to the new adapter, 64 sites of 40 M parameters, beside
# numpy's and Flower's where GOLDEN_PYTHON has them. Fails under 540 M parameters a second or, the
# sum alone, under half of the memory's bandwidth. Takes 3 GB of disk.
bench-aggregate: build
	$(GOLDEN_PYTHON) bench/aggregate_baseline.py
	$(BUILD)/bin/aggregate_bench --dir $(BUILD)/aggregate_bench

# A round without training: the coordinator alone with scripted sites, then every process of two
# sites with a tiny adapter and with 10 M parameters; fails over 50 and 400 ms. Beside them Flower
# and NVFlare where GOLDEN_PYTHON has them.
bench-round: build
	$(BUILD)/bin/round_bench --base tests/golden/tiny_llama --limit_ms 50 --dir $(BUILD)/round_bench
	$(GOLDEN_PYTHON) bench/round_baselines.py
	$(BUILD)/bin/round_processes_bench --base tests/golden/tiny_llama --dir $(BUILD)/round_processes
	$(BUILD)/bin/random_base --out $(BUILD)/round_base --hidden 512 --inner 1376 --layers 8 --heads 8 --kv_heads 8 --vocab 512
	$(BUILD)/bin/round_processes_bench --base $(BUILD)/round_base --rank 128 --rounds 12 --limit_ms 400 --dir $(BUILD)/round_processes

# 1,000 sites' real connections to one coordinator: every round ends, within 30 s and 512 MB.
bench-connections: build
	$(BUILD)/bin/connections_bench --base tests/golden/tiny_llama --dir $(BUILD)/connections_bench

# 1,000 to 100,000 simulated sites: a minute; fails over 512 bytes of memory a site.
bench-sites: build
	python3 bench/simulate_sites.py --bin $(BUILD)/bin --base tests/golden/tiny_llama --dir $(BUILD)/simulate_sites

# A model of 10 M parameters learns real text on two ranks (some minutes; needs Debian's perl-doc for
# the text), then steps of it beside PyTorch's where GOLDEN_PYTHON has torch.
bench-pretrain: build
	$(GOLDEN_PYTHON) bench/pretrain_bench.py --bin $(BUILD)/bin --dir $(BUILD)/pretrain_bench

# A 60 MB update over 4 Mbit/s, 250 ms there and back and 3 cuts (two minutes); then 1 GB from
# process to process at full speed, beside what its parts do alone.
bench-wire: build
	$(BUILD)/bin/wire_bench bad_link
	$(BUILD)/bin/wire_bench full_speed

# A base of 1 GB over 100 Mbit/s, 200 ms there and back, five cuts: a minute and a half.
bench-base: build
	$(BUILD)/bin/base_pull_bench --dir $(BUILD)/base_pull

# Training steps beside transformers + PEFT on SmolLM2; GOLDEN_PYTHON is a python that has torch and
# peft. Fails under 2.6 times their tokens per second in bf16 or over 0.25 times their memory.
GOLDEN_PYTHON ?= python3
bench-finetune: build
	$(GOLDEN_PYTHON) bench/finetune_vs_peft.py --bench $(BUILD)/bin/finetune_step_bench --base "$$(scripts/smollm2_base.sh $(BUILD))"

# Short chats beside TRL's SFTTrainer; GOLDEN_PYTHON needs trl too. Fails under 5 times its padded rows.
bench-chats: build
	$(GOLDEN_PYTHON) bench/finetune_vs_trl.py --tidegate $(BUILD)/bin/tidegate --base "$$(scripts/smollm2_base.sh $(BUILD))"

# Generation beside transformers on SmolLM2. Fails under 5 times their decoded tokens per second in
# bf16, 1.2 times their prefill, or 75 % of reading the weights once a token.
bench-generate: build
	$(GOLDEN_PYTHON) bench/generate_vs_transformers.py --bench $(BUILD)/bin/generate_bench --base "$$(scripts/smollm2_base.sh $(BUILD))"

# Adapters of each language in PEFT, and a federation's rounds trained by transformers and PEFT; GOLDEN_PYTHON needs torch,
# transformers and peft. The package is built for it by pip, in a folder of its own.
test-peft: build
	$(GOLDEN_PYTHON) -m pip install --quiet --no-deps --upgrade --target $(BUILD)/peft-python .
	PYTHONPATH=$(BUILD)/peft-python TIDEGATE_PROGRAMS=$(abspath $(BUILD))/bin TIDEGATE_SOURCE=$(CURDIR) TIDEGATE_BUILD=$(abspath $(BUILD)) \
	  $(GOLDEN_PYTHON) examples/bring_your_own_peft/peft_test.py -v

# Pages of the headers and of the Python package in BUILD/pages; a warning fails. Needs doxygen (Debian's), and DOCS_PYTHON a
# python with pdoc 16 of the version that the package was built for: `python3 -m venv DIR && DIR/bin/pip install pdoc==16.0.0`.
DOCS_PYTHON ?= python3
docs: build
	@command -v doxygen >/dev/null || { echo "make docs needs doxygen: apt-get install doxygen" >&2; exit 1; }
	mkdir -p $(BUILD)/pages
	{ cat docs/Doxyfile; echo 'OUTPUT_DIRECTORY = "$(BUILD)/pages"'; } | doxygen -
	PYTHONPATH=$(BUILD)/python $(DOCS_PYTHON) -W error -m pdoc --output-directory $(BUILD)/pages/python tidegate

clean:
	rm -rf $(BUILD)
