#include "tests/onshore/sandbox/helper_run.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>

#include "tests/onshore/sandbox/helper_options.h"

namespace tidegate::onshore {
namespace {

constexpr auto kLimit = std::chrono::seconds(90);
constexpr auto kEndLimit = std::chrono::seconds(10);

// One message, or false at the end.
bool Receive(int channel, std::vector<std::string>& messages) {
  std::vector<char> buffer(kMaxStatementBytes);
  const ssize_t got = ::recv(channel, buffer.data(), buffer.size(), 0);
  if (got <= 0) return false;
  messages.emplace_back(buffer.data(), static_cast<size_t>(got));
  return true;
}

void Serve(const HelperCall& call, int channel, Fd pin_channel, const LogPipe& log,
           HelperResult& result) {
  Fd listener;
  std::optional<AddressPin> pin;
  ManualClock clock(0);
  const bool own_time = call.no_rate_limit || call.proxy_hangs;
  const Clock& time = own_time ? static_cast<const Clock&>(clock) : SystemClock();
  if (call.route) {
    pin.emplace(call.route, time);
  } else if (call.pinned) {
    pin.emplace(*call.pinned, time);
  }
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < kLimit) {
    std::vector<pollfd> waits = {{channel, POLLIN, 0},
                                 {listener.valid() ? listener.get() : pin_channel.get(), POLLIN, 0},
                                 {log.read.get(), POLLIN, 0}};
    if (pin) pin->AppendDials(&waits);
    const bool hangs = call.proxy_hangs && pin->dialling() != 0;
    ::poll(waits.data(), waits.size(), hangs ? 20 : 1000);
    log.Drain(result.log);
    if (hangs) clock.Advance(1000);
    if (pin) pin->AdvanceDials(listener.get());
    if (waits[1].revents != 0) {
      if (!listener.valid()) {
        Result<Fd> got = ReceiveListener(pin_channel.get(), 0);
        if (got) listener = std::move(*got);
        pin_channel.reset();
      } else if (clock.Advance(call.no_rate_limit ? 10'000 : 0);
                 !pin->HandleNotification(listener.get()).ok()) {
        listener.reset();
      }
    }
    if (waits[0].revents != 0 && !Receive(channel, result.messages)) break;
    if (call.close_pin_before_work && result.Said("tidegate")) {
      listener.reset();
      if (!result.Said("heard")) {
        (void)::send(channel, "go", 2, MSG_NOSIGNAL);
        result.messages.emplace_back("heard");
      }
    }
  }
  if (pin) result.pin = pin->counts();
}

void MakeFile(const std::filesystem::path& path, std::string_view text) {
  ASSERT_TRUE(WriteFileDurably(path, AsBytes(text)).ok());
}

}  // namespace

LogPipe::LogPipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) std::abort();
  read = Fd(ends[0]);
  write = Fd(ends[1]);
}

bool LogPipe::Drain(std::string& out) const {
  std::array<char, 4096> buffer;
  ssize_t got = 0;
  while ((got = ::read(read.get(), buffer.data(), buffer.size())) > 0) {
    out.append(buffer.data(), static_cast<size_t>(got));
  }
  return got == 0;
}

bool LogPipe::Ends(std::string& out) const {
  const auto start = std::chrono::steady_clock::now();
  while (!Drain(out)) {
    pollfd wait{read.get(), POLLIN, 0};
    ::poll(&wait, 1, 1000);
    if (std::chrono::steady_clock::now() - start > kEndLimit) return false;
  }
  return true;
}

std::optional<std::string> HelperResult::Said(const std::string& word) const {
  for (const std::string& message : messages) {
    if (message.starts_with(word)) {
      return message.size() > word.size() ? message.substr(word.size() + 1) : "";
    }
  }
  return std::nullopt;
}

std::string HelperResult::Everything() const {
  std::string text =
      fmt::format("{} signal {} status {}\n{}", EndName(end.end), end.signal, end.exit_status, log);
  for (const std::string& message : messages) text += message + "\n";
  return text;
}

const IsolationStatement& HelperResult::Statement() const {
  if (!statement_) {
    for (const std::string& message : messages) {
      if (!message.starts_with("tidegate isolation")) continue;
      Result<IsolationStatement> decoded = DecodeStatement(message);
      EXPECT_TRUE(decoded) << decoded.error().message();
      if (decoded) statement_ = *decoded;
    }
    EXPECT_TRUE(statement_) << "no statement:\n" << Everything();
    if (!statement_) statement_.emplace();
  }
  return *statement_;
}

const TryRow* HelperResult::Row(const std::string& name) const {
  (void)Statement();
  for (const TryRow& row : statement_->rows) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

std::filesystem::path HelperProgram() {
  return std::filesystem::path(TIDEGATE_BIN_DIR) / "walled_helper";
}

std::vector<std::string> HelperEnvironment() {
  return {"ASAN_OPTIONS=detect_leaks=0", "UBSAN_OPTIONS=print_stacktrace=0",
          // g++'s OpenMP is not built for ThreadSanitizer.
          "TSAN_OPTIONS=report_bugs=0"};
}

HelperResult RunHelper(const HelperCall& call) {
  HelperResult result;
  Result<Channel> channel = MakeChannel();
  Result<Channel> pin = MakeChannel();
  const Fd null_fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  LogPipe log;
  if (!channel || !pin) {
    ADD_FAILURE() << "no channel";
    return result;
  }
  SpawnSpec spec;
  spec.program = HelperProgram();
  spec.arguments = call.words;
  spec.environment = HelperEnvironment();
  spec.fds = {channel->child.get()};
  if (call.pinned || call.extra_fd >= 0) spec.fds.push_back(pin->child.get());
  if (call.extra_fd >= 0) spec.fds.push_back(call.extra_fd);
  spec.log_fd = log.write.get();
  const Result<Child> child = Spawn(spec);
  if (!child) {
    ADD_FAILURE() << child.error().message();
    return result;
  }
  channel->child.reset();
  pin->child.reset();
  log.write.reset();
  Serve(call, channel->supervisor.get(), call.pinned ? std::move(pin->supervisor) : Fd(), log,
        result);
  // Nobody hears it any more: if it still runs, it hangs.
  pollfd ended{child->pidfd.get(), POLLIN, 0};
  if (::poll(&ended, 1, 10'000) != 1) {
    ADD_FAILURE() << "the helper does not end";
    EXPECT_TRUE(Kill(*child).ok());
  }
  const Result<std::optional<ChildEnd>> end = Reap(*child, true);
  EXPECT_TRUE(log.Ends(result.log)) << "a process that the helper started outlives it";
  if (end && *end) result.end = **end;
  return result;
}

Site::Site() {
  char name[] = "/tmp/tidegate-walls-XXXXXX";
  if (::mkdtemp(name) == nullptr) std::abort();
  root_ = name;
  std::filesystem::permissions(root_, std::filesystem::perms(0755));
  MakeFile(root_ / "key", "a private key");
  MakeFile(root_ / "records.jsonl", "{\"text\":\"private\"}");
  for (const char* directory : {"trainer", "gate", "empty", "medium", "base"}) {
    std::filesystem::create_directory(root_ / directory);
    // Failing as an ordinary user is right: the directories are its own then.
    if (::geteuid() == 0) {
      EXPECT_EQ(::chmod((root_ / directory).c_str(), 0777), 0);
    }
  }
  MakeFile(root_ / "base" / "model", "weights");
}

Site::~Site() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

std::vector<std::string> Site::Words(Role role) const {
  std::vector<std::string> words = {fmt::format("role={}", RoleName(role))};
  const std::string key = "key_file:" + Path("key");
  const std::string records = "record_file:" + Path("records.jsonl");
  switch (role) {
    case Role::kTrainer:
      words.insert(words.end(), {"forbidden=" + key, "rw=" + Path("trainer"), "ro=" + Path("base"),
                                 "work=" + Path("trainer")});
      break;
    case Role::kGate:
      words.insert(words.end(), {"forbidden=" + records, "rw=" + Path("gate"),
                                 "chroot=" + Path("gate"), "work=/"});
      break;
    case Role::kLink:
      words.insert(words.end(), {"forbidden=" + key + "," + records, "chroot=" + Path("empty")});
      break;
    case Role::kCarrier:
      words.insert(words.end(), {"forbidden=" + key + "," + records, "rw=" + Path("medium"),
                                 "chroot=" + Path("medium"), "work=/"});
      break;
  }
  return words;
}

Listener::Listener() {
  fd = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
  v4->sin_family = AF_INET;
  v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(sockaddr_in);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(fd.get(), 16) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    ADD_FAILURE() << "no listener: " << errno;
  }
}

}  // namespace tidegate::onshore
