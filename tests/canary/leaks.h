// What a trainer that is lost to an enemy tries in order to get a record's words out, past its
// gate: files, sockets, its own output. The same code runs with walls and, as a control, without.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::canary {

// What the test wants tried; a file of lines "VERB" or "VERB ARGUMENT".
struct Plan {
  std::vector<std::filesystem::path> write;  // "write PATH": make this file, with the words in it
  uint16_t dial = 0;                         // "dial PORT" of loopback
  bool pair = false;                         // "pair": by the gate's pair past the gate
  bool words = false;                        // "words": to standard output and error
  bool refused = false;    // "refused": updates with the words in all places that are not weights
  bool weights = false;    // "weights": an update with the words in its integers
  bool statement = false;  // "statement": the words as a try's name in the isolation statement
  bool event = false;      // "event": the words as an event's numbers
};
Result<Plan> ReadPlan(const std::filesystem::path& file);

// Appends "WHAT: OUTCOME" lines, which hold no words of a record, to a file.
class Report {
 public:
  explicit Report(std::filesystem::path file) : file_(std::move(file)) {}
  void Add(const std::string& what, const std::string& outcome);
  // "done", or the name of errno.
  void AddErrno(const std::string& what, bool done);

 private:
  std::filesystem::path file_;
};

// The text of the first record of a file that PlantRecords wrote.
Result<std::string> FirstRecord(const std::filesystem::path& records);

// "write PATH: OUTCOME" for each path.
void LeakToFiles(const Plan& plan, const std::string& words, Report& report);
// "dial: OUTCOME", after "dialling: now": behind the walls the first socket is the end.
void LeakToListener(uint16_t port, const std::string& words, Report& report);
// "pair: OUTCOME": sends by an inherited SEQPACKET end, to an address of its own choice.
void LeakByPair(int pair, const std::string& words, Report& report);
// "words: done".
void LeakToOutput(const std::string& words, Report& report);

}  // namespace tidegate::canary
