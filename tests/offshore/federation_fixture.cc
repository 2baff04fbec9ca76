#include "federation_fixture.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "crypto/random.h"

namespace tidegate::offshore {

namespace fs = std::filesystem;

void MakeCoordinatorDir(const fs::path& dir, const std::string& address) {
  fs::remove_all(dir);
  fs::create_directories(dir / "keys");
  const std::string text = fmt::format(
      "name = \"demo\"\nfederation = \"000102030405060708090a0b0c0d0e0f\"\naddress = \"{}\"\n"
      "block_store_gib = 1\nkeep_versions = 2\nlease_seconds = 1\n",
      address);
  ASSERT_TRUE(WriteFileDurably(dir / "coordinator.toml", AsBytes(text)).ok());
  ASSERT_TRUE(
      crypto::WriteKeyFile(dir / "keys" / "sign.key", *crypto::SigningKey::Generate()).ok());
  ASSERT_TRUE(
      crypto::WriteKeyFile(dir / "keys" / "link.key", *crypto::CurveKeyPair::Generate()).ok());
}

std::string TinyModelConfig() {
  return ReadTextFile(fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama/config.json",
                      1 << 20)
      .value();
}

nlohmann::json SubmitRequest(const std::string& toml) {
  return {{"verb", "job_submit"},
          {"file", "triage.toml"},
          {"text", "base = \"tiny\"\n" + toml},
          {"model_config", TinyModelConfig()},
          {"base_hash", std::string(64, '5')},
          {"base_name", "tiny"}};
}

std::string FreeAddress() {
  for (int tries = 0; tries < 100; ++tries) {
    uint8_t random[2];
    if (!crypto::FillRandom(random).ok()) break;
    const auto port = static_cast<uint16_t>(10'000 + (random[0] << 8 | random[1]) % 22'000);
    const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      return fmt::format("tcp://127.0.0.1:{}", port);
    }
  }
  ADD_FAILURE() << "no port is free";
  return "";
}

void CopyCoordinatorDir(const fs::path& from, const fs::path& to, const std::string& lines) {
  fs::remove_all(to);
  fs::create_directories(to);
  fs::copy(from / "keys", to / "keys");
  const std::string text = ReadTextFile(from / "coordinator.toml", 1 << 20).value() + lines;
  ASSERT_TRUE(WriteFileDurably(to / "coordinator.toml", AsBytes(text)).ok());
}

TestFederation::TestFederation(const fs::path& dir) : dir_(dir), coordinators_({dir}) {
  MakeCoordinatorDir(dir, "tcp://127.0.0.1:7443");
  Open();
}

TestFederation::TestFederation(const fs::path& dir, const std::string& store_url)
    : dir_(dir), coordinators_({dir / "one", dir / "two"}) {
  MakeCoordinatorDir(dir, "tcp://127.0.0.1:7443");
  fs::create_directories(dir / "shared");
  for (const fs::path& coordinator : coordinators_) {
    CopyCoordinatorDir(dir, coordinator,
                       fmt::format("store = \"{}\"\nshared_folder = \"{}\"\n", store_url,
                                   (dir / "shared").native()));
  }
  Open();
}

void TestFederation::Open() {
  const fs::path& dir = coordinators_[opened_++ % coordinators_.size()];
  auto config = LoadFederationConfig(dir);
  auto keys = LoadFederationKeys(dir);
  ASSERT_TRUE(config.has_value() && keys.has_value());
  Result<std::unique_ptr<Coordinator>> coordinator;
  // A database may take a moment to notice that the connection of the one before has ended.
  for (int tries = 0; tries < 500; ++tries) {
    keys = LoadFederationKeys(dir);
    coordinator = Coordinator::Open(dir, *config, std::move(*keys), clock);
    if (coordinator || coordinator.error().code() != Code::kUnavailable) break;
    ::usleep(10'000);
  }
  ASSERT_TRUE(coordinator.has_value()) << coordinator.error().ToString();
  coordinator_ = std::move(*coordinator);
  Turn([this] { return coordinator_->Resume(); });
}

void TestFederation::Crash() {
  coordinator_.reset();
  under_way_.clear();
  for (auto& [name, site] : sites_) {
    site->Reset();
    connected_[name] = false;
  }
}

crypto::VerifyKey TestFederation::key() const { return coordinator_->keys().sign.verify_key(); }

bool TestFederation::Turn(const std::function<Status()>& what, bool crash) {
  EXPECT_TRUE(coordinator_->BeginTurn().ok());
  const Status status = what();
  EXPECT_TRUE(status.ok()) << status.ToString();
  if (crash) {
    Crash();
    return false;
  }
  auto out = coordinator_->EndTurn();
  EXPECT_TRUE(out.has_value()) << out.error().ToString();
  if (!out) return false;
  for (Outgoing& message : *out) {
    if (!connected_[message.site]) continue;
    for (SiteMessage& answer : sites_.at(message.site)->On(message.type, message.Whole())) {
      under_way_.emplace_back(message.site, std::move(answer));
    }
  }
  return true;
}

FakeSite& TestFederation::Enrol(const std::string& name) {
  auto site = std::make_unique<FakeSite>(name, key());
  const auto answer = Request({{"verb", "site_approve"}, {"request", site->Request()}});
  EXPECT_TRUE(answer.has_value()) << answer.error().ToString();
  return *(sites_[name] = std::move(site));
}

void TestFederation::Connect(const std::string& name) {
  connected_[name] = true;
  Turn([&] {
    coordinator_->OnConnected(name);
    return OkStatus();
  });
}

void TestFederation::Disconnect(const std::string& name) {
  connected_[name] = false;
  sites_.at(name)->Reset();
  coordinator_->OnDisconnected(name);
  std::erase_if(under_way_, [&](const auto& message) { return message.first == name; });
}

Result<nlohmann::ordered_json> TestFederation::Request(const nlohmann::json& request) {
  Result<nlohmann::ordered_json> answer;
  Turn([&] {
    Status fatal;
    answer = coordinator_->OnRequest(request, &fatal);
    return fatal;
  });
  return answer;
}

std::string TestFederation::Submit(const std::string& toml) {
  const auto answer = Request(SubmitRequest(toml));
  EXPECT_TRUE(answer.has_value()) << answer.error().ToString();
  return answer ? (*answer)["id"].get<std::string>() : "";
}

void TestFederation::Say(const std::string& name, const SiteMessage& message) {
  Turn([&] { return coordinator_->OnMessage(name, message.type, message.body); });
}

void TestFederation::Settle(const std::function<bool(int)>& before_turn) {
  while (!under_way_.empty()) {
    const auto [name, message] = std::move(under_way_.front());
    under_way_.pop_front();
    const bool crash = before_turn && !before_turn(turns_);
    ++turns_;
    if (!Turn([&] { return coordinator_->OnMessage(name, message.type, message.body); }, crash)) {
      return;
    }
  }
}

void TestFederation::Time() {
  Turn([this] { return coordinator_->OnTime(); });
}

}  // namespace tidegate::offshore
