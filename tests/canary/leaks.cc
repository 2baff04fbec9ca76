#include "tests/canary/leaks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <sstream>

#include "base/file.h"
#include "base/log.h"

namespace tidegate::canary {
namespace {

constexpr uint64_t kMaxBytes = 1 << 20;

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

Result<Plan> ReadPlan(const std::filesystem::path& file) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxBytes));
  Plan plan;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string verb = line.substr(0, space);
    const std::string argument = line.substr(std::min(space + 1, line.size()));
    const auto flag = [&](const char* name, bool* out) {
      if (verb == name) *out = true;
      return verb == name;
    };
    if (verb == "write") {
      plan.write.emplace_back(argument);
    } else if (verb == "dial") {
      std::from_chars(argument.data(), argument.data() + argument.size(), plan.dial);
    } else if (!flag("words", &plan.words) && !flag("refused", &plan.refused) &&
               !flag("weights", &plan.weights) && !flag("statement", &plan.statement) &&
               !flag("event", &plan.event) && !flag("pair", &plan.pair)) {
      return InvalidArgument("{} has the unknown line \"{}\"", file.native(), line);
    }
  }
  return plan;
}

void Report::Add(const std::string& what, const std::string& outcome) {
  const Fd fd(::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const std::string line = what + ": " + outcome + "\n";
  // A line that is missing fails the test that looks for it.
  [[maybe_unused]] const ssize_t written = ::write(fd.get(), line.data(), line.size());
}

void Report::AddErrno(const std::string& what, bool done) {
  const int error = errno;
  Add(what, done ? "done" : ::strerrorname_np(error));
}

Result<std::string> FirstRecord(const std::filesystem::path& records) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(records, kMaxBytes));
  constexpr std::string_view kBefore = "{\"text\": \"";
  const size_t end = text.find('"', kBefore.size());
  if (!text.starts_with(kBefore) || end == std::string::npos) {
    return DataLoss("{} does not begin with a text", records.native());
  }
  return text.substr(kBefore.size(), end - kBefore.size());
}

void LeakToFiles(const Plan& plan, const std::string& words, Report& report) {
  for (const std::filesystem::path& path : plan.write) {
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    report.AddErrno("write " + path.native(),
                    fd.valid() && ::write(fd.get(), words.data(), words.size()) ==
                                      static_cast<ssize_t>(words.size()));
  }
}

void LeakToListener(uint16_t port, const std::string& words, Report& report) {
  report.Add("dialling", "now");
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  report.AddErrno("dial", fd.valid() &&
                              ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                                        sizeof(address)) == 0 &&
                              ::send(fd.get(), words.data(), words.size(), MSG_NOSIGNAL) > 0);
}

void LeakByPair(int pair, const std::string& words, Report& report) {
  const sockaddr_in address = Loopback(7443);
  report.AddErrno("pair",
                  ::sendto(pair, words.data(), words.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                           reinterpret_cast<const sockaddr*>(&address), sizeof(address)) > 0);
}

void LeakToOutput(const std::string& words, Report& report) {
  const std::string line = words + "\n";
  const bool out = ::write(STDOUT_FILENO, line.data(), line.size()) > 0;
  const bool err = ::write(STDERR_FILENO, line.data(), line.size()) > 0;
  LogError("a record says {}", words);
  report.AddErrno("words", out && err);
}

}  // namespace tidegate::canary
