#include "federation_fixture.h"

#include <gtest/gtest.h>

#include "base/file.h"

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

TestFederation::TestFederation(const fs::path& dir) : dir_(dir) {
  MakeCoordinatorDir(dir, "tcp://127.0.0.1:7443");
  Open();
}

void TestFederation::Open() {
  auto config = LoadFederationConfig(dir_);
  auto keys = LoadFederationKeys(dir_);
  ASSERT_TRUE(config.has_value() && keys.has_value());
  auto coordinator = Coordinator::Open(dir_, *config, std::move(*keys), clock);
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
    for (SiteMessage& answer : sites_.at(message.site)->On(message.type, message.body)) {
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
