// A federation for tests: a coordinator's folder, the coordinator in this process, and scripted
// sites whose messages are carried by hand.
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>

#include "base/clock.h"
#include "fake_site.h"
#include "offshore/coordinator.h"

namespace tidegate::offshore {

class TestFederation {
 public:
  explicit TestFederation(const std::filesystem::path& dir);
  // Coordinators that share the store of this url, and a folder in `dir`: another one opens it each
  // time.
  TestFederation(const std::filesystem::path& dir, const std::string& store_url);

  void Open();   // loads the folder
  void Crash();  // drops the coordinator, in a turn or not; the sites stay and are cut
  bool open() const { return coordinator_ != nullptr; }

  FakeSite& Enrol(const std::string& name);
  FakeSite& site(const std::string& name) { return *sites_.at(name); }
  void Connect(const std::string& name);
  void Disconnect(const std::string& name);

  // The JSON answer of a verb; an error's code is in it.
  Result<nlohmann::ordered_json> Request(const nlohmann::json& request);
  // Submits for the tiny model; returns the job's id as hex.
  std::string Submit(const std::string& toml);

  // One message of a site into the coordinator, and what comes of it delivered.
  void Say(const std::string& name, const SiteMessage& message);
  // Delivers until nothing is under way. Calls `before_turn` with the number of the turn; when it
  // returns false the coordinator crashes in that turn, before the commit.
  void Settle(const std::function<bool(int)>& before_turn = nullptr);
  void Time();  // a turn for deadlines

  ManualClock clock{1'795'581'436'000};
  std::filesystem::path dir() const { return dir_; }
  Coordinator& coordinator() { return *coordinator_; }
  crypto::VerifyKey key() const;
  int turns() const { return turns_; }

 private:
  bool Turn(const std::function<Status()>& what, bool crash = false);
  std::filesystem::path dir_;
  std::vector<std::filesystem::path> coordinators_;  // their folders
  size_t opened_ = 0;                                // times
  std::unique_ptr<Coordinator> coordinator_;
  std::map<std::string, std::unique_ptr<FakeSite>> sites_;
  std::map<std::string, bool> connected_;
  std::deque<std::pair<std::string, SiteMessage>> under_way_;
  int turns_ = 0;
};

// tcp://127.0.0.1 and a port that nobody has now. Below those that the kernel gives to outgoing
// connections: one of them could take it while a coordinator is being started again.
std::string FreeAddress();
// A second coordinator's folder: the keys and coordinator.toml of the first, with these lines more.
void CopyCoordinatorDir(const std::filesystem::path& from, const std::filesystem::path& to,
                        const std::string& lines);
// coordinator.toml and keys in a new folder.
void MakeCoordinatorDir(const std::filesystem::path& dir, const std::string& address);
std::string TinyModelConfig();
nlohmann::json SubmitRequest(const std::string& toml);

}  // namespace tidegate::offshore
