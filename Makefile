# Thin: each target is one command a person could type.
BUILD ?= build
CTEST_ARGS ?=

.PHONY: setup build test lint bench-round clean
setup:
	scripts/setup.sh

build: setup
	cmake -S . -B $(BUILD) -G Ninja $$(command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
	cmake --build $(BUILD)

test: build
	ctest --test-dir $(BUILD) --output-on-failure --no-tests=error $(CTEST_ARGS)

lint: setup
	git ls-files '*.h' '*.cc' | xargs clang-format --dry-run -Werror

# A round of a tiny adapter without training; fails over 100 ms.
bench-round: build
	$(BUILD)/bin/round_bench --base tests/golden/tiny_llama --dir $(BUILD)/round_bench

clean:
	rm -rf $(BUILD)
