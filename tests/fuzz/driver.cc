// Runs a fuzz target without libFuzzer, the same way every time: each seed, each file that is
// named, and then a number of mutations of them.
//
//   fuzz_NAME [--mutations N] [--from I] [FILE|FOLDER]…
//
// The program ends at the first input that crashes, holds more memory than the target's limit or
// takes more than five seconds of processor time, and leaves it in ./crash-NAME-… for a second
// look.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/file.h"
#include "counted_new.h"
#include "fuzz.h"
#include "mutate.h"

namespace tidegate::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr int kSecondsAnInput = 5;
// The most that the process may map, for what operator new doesn't see. Sanitizers map far more.
constexpr rlim_t kMaxMapped = rlim_t{4} << 30;

// For the signal handler.
const char* g_name = "";
const std::string* g_input = nullptr;
uint64_t g_number = 0;

void SaveInput(int signal) {
  char path[256];
  std::snprintf(path, sizeof(path), "crash-%s-%llu", g_name,
                static_cast<unsigned long long>(g_number));
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const bool saved =
      fd >= 0 && g_input != nullptr &&
      ::write(fd, g_input->data(), g_input->size()) == static_cast<ssize_t>(g_input->size());
  std::fprintf(stderr, "fuzz: %s: input %llu: %s; %s %s\n", g_name,
               static_cast<unsigned long long>(g_number),
               signal == SIGVTALRM ? "took more than 5 s of processor time" : ::strsignal(signal),
               saved ? "it is in" : "it can not be written to", path);
  ::signal(signal == SIGVTALRM ? SIGABRT : signal, SIG_DFL);
  ::raise(signal == SIGVTALRM ? SIGABRT : signal);
}

void CatchSignals() {
  // Under sanitizers these are theirs, but for SIGABRT and the clock.
#if defined(TIDEGATE_FUZZ_SANITIZED)
  const int signals[] = {SIGABRT, SIGVTALRM};
#else
  const int signals[] = {SIGABRT, SIGVTALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
#endif
  for (const int signal : signals) ::signal(signal, SaveInput);
}

void Run(const Target& target, const std::string& input, uint64_t number) {
  g_input = &input;
  g_number = number;
  const itimerval limit{{0, 0}, {kSecondsAnInput, 0}};
  ::setitimer(ITIMER_VIRTUAL, &limit, nullptr);
  // Of its exact size on the heap, so that reading behind it is seen.
  const auto data = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), data.get());
  LimitHeldMemory(target.memory + target.memory_per_byte * input.size());
  LLVMFuzzerTestOneInput(data.get(), input.size());
  LimitHeldMemory(0);
}

std::vector<std::string> Collected(const std::vector<fs::path>& paths) {
  std::vector<fs::path> files;
  for (const fs::path& path : paths) {
    if (!fs::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<std::string> inputs;
  for (const fs::path& file : files) {
    const auto bytes = ReadFile(file, 16u << 20);
    Require(bytes.has_value(), "cannot read " + file.native());
    inputs.push_back(Text(*bytes));
  }
  return inputs;
}

int Main(int argc, char** argv) {
  uint64_t mutations = 0, from = 0;
  std::vector<fs::path> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool option = word == "--mutations" || word == "--from";
    if (!option) {
      paths.emplace_back(word);
      continue;
    }
    if (++i == argc) {
      std::fprintf(stderr, "fuzz: %s needs a number\n", argv[i - 1]);
      return 64;
    }
    (word == "--from" ? from : mutations) = std::strtoull(argv[i], nullptr, 10);
  }
  const std::string name = fs::path(argv[0]).filename().native();
  g_name = name.c_str();
  CatchSignals();
#if !defined(TIDEGATE_FUZZ_SANITIZED)
  const rlimit mapped{kMaxMapped, kMaxMapped};
  ::setrlimit(RLIMIT_AS, &mapped);
#endif
  Target target = Describe();
  std::vector<std::string> inputs = Collected(paths);
  inputs.insert(inputs.begin(), target.seeds.begin(), target.seeds.end());
  Require(!inputs.empty(), "a target has seeds");
  for (size_t i = 0; i < inputs.size(); ++i) Run(target, inputs[i], i);
  const Mutator mutator(inputs);
  for (uint64_t i = from; i < from + mutations; ++i) Run(target, mutator.Input(i), i);
  std::printf("%s: %zu seeds and files, %llu mutations\n", g_name, inputs.size(),
              static_cast<unsigned long long>(mutations));
  return 0;
}

}  // namespace
}  // namespace tidegate::fuzz

int main(int argc, char** argv) { return tidegate::fuzz::Main(argc, argv); }
