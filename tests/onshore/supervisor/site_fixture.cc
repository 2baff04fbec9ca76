#include "tests/onshore/supervisor/site_fixture.h"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/file.h"

namespace tidegate::onshore {

namespace fs = std::filesystem;

bool Eventually(const std::function<bool()>& condition, int millis) {
  const int64_t end = SystemClock().MonotonicMillis() + millis;
  while (!condition()) {
    if (SystemClock().MonotonicMillis() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

bool Alive(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return false;
  const size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text[name_end + 2] != 'Z' && text[name_end + 2] != 'X';
}

void SupervisorTest::SetUp() {
  std::string name = (fs::temp_directory_path() / "tidegate-site-XXXXXX").native();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  root_ = name;
  site_ = root_ / "site";
  programs_ = root_ / "programs";
  fs::create_directory(site_);
  fs::create_directory(programs_);
  const fs::path built = TIDEGATE_BIN_DIR;
  // The supervisor looks for the others beside itself.
  fs::copy_file(built / "tidegate-onshore", programs_ / "tidegate-onshore");
  for (const char* child : {"gate", "link", "trainer"}) {
    fs::create_symlink(built / "fake_child", programs_ / (std::string("tidegate-") + child));
  }
  Write("site.toml",
        "name = \"lab-1\"\nbase = \"model\"\nrecords = \"r.jsonl\"\n"
        "coordinator = \"tcp://127.0.0.1:7443\"\nthreads = 3\n");
}

void SupervisorTest::TearDown() {
  supervisor_ = ChildProcess();
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

void SupervisorTest::Write(const std::string& file, const std::string& text) const {
  const fs::path whole = site_ / file, part = site_ / ("part-" + file);
  std::ofstream(part) << text;
  fs::rename(part, whole);
}

std::vector<std::string> SupervisorTest::Command(const std::vector<std::string>& more) const {
  std::vector<std::string> argv = {(programs_ / "tidegate-onshore").native(), "--dir",
                                   site_.native()};
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

void SupervisorTest::StartSite(const std::vector<std::string>& more) {
  auto started = ChildProcess::Start(Command(more), root_ / "log");
  ASSERT_TRUE(started) << started.error().message();
  supervisor_ = std::move(*started);
}

std::string SupervisorTest::Log() const {
  const auto text = ReadTextFile(root_ / "log", 16 << 20);
  return text ? *text : "";
}

std::vector<std::string> SupervisorTest::Trace(const std::string& name) const {
  std::ifstream file(site_ / ("trace-" + name));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

int SupervisorTest::Traced(const std::string& name, const std::string& line) const {
  int count = 0;
  for (const std::string& seen : Trace(name)) count += seen == line ? 1 : 0;
  return count;
}

bool SupervisorTest::TraceGets(const std::string& name, const std::string& line, int times) const {
  return Eventually([&] { return Traced(name, line) >= times; });
}

int SupervisorTest::Starts(const std::string& name) const {
  int count = 0;
  for (const std::string& seen : Trace(name)) count += seen.starts_with("start ") ? 1 : 0;
  return count;
}

std::string SupervisorTest::LastStart(const std::string& name) const {
  std::string last;
  for (const std::string& seen : Trace(name)) {
    if (seen.starts_with("start ")) last = seen;
  }
  return last;
}

pid_t SupervisorTest::LastPid(const std::string& name) const {
  pid_t last = -1;
  for (const std::string& seen : Trace(name)) {
    if (seen.starts_with("pid ")) last = static_cast<pid_t>(std::stol(seen.substr(4)));
  }
  return last;
}

void SupervisorTest::Do(const std::string& name, const std::string& command) const {
  Write("do-" + name, command);
  ASSERT_TRUE(Eventually([&] { return !fs::exists(site_ / ("do-" + name)); }))
      << name << " does not take commands\n"
      << Log();
}

}  // namespace tidegate::onshore
