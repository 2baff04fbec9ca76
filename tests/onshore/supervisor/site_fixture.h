// A site in a fresh folder whose programs are the real tidegate-onshore and fake children.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/subprocess.h"

namespace tidegate::onshore {

// Asks until it is true; false after `millis`.
bool Eventually(const std::function<bool()>& condition, int millis = 20'000);

// Whether the process is there and no zombie.
bool Alive(pid_t pid);

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  void Write(const std::string& file, const std::string& text) const;
  // Starts tidegate-onshore; its log is Log().
  void StartSite(const std::vector<std::string>& more = {});
  std::vector<std::string> Command(const std::vector<std::string>& more = {}) const;
  std::string Log() const;
  bool LogHas(const std::string& text) const { return Log().find(text) != std::string::npos; }
  bool LogGets(const std::string& text) const {
    return Eventually([&] { return LogHas(text); });
  }

  // The lines that fake child `name` wrote so far, and how many of them are `line`.
  std::vector<std::string> Trace(const std::string& name) const;
  int Traced(const std::string& name, const std::string& line) const;
  bool TraceGets(const std::string& name, const std::string& line, int times = 1) const;
  int Starts(const std::string& name) const;
  std::string LastStart(const std::string& name) const;
  pid_t LastPid(const std::string& name) const;
  // Gives a command to a fake child and waits until it was taken.
  void Do(const std::string& name, const std::string& command) const;

  // The exit code; -1 when it runs on.
  int WaitForEnd(int millis = 20'000) { return supervisor_.Wait(millis).value_or(-1); }

  std::filesystem::path root_, site_, programs_;
  ChildProcess supervisor_;
};

}  // namespace tidegate::onshore
