// Plays tidegate-trainer for the tests: raises the same walls, opens the same records, and then
// tries to get the first record's words out, as SITE/trainer/plan says (leaks.h). What became of
// each try goes to SITE/trainer/report. Only built for tests.
//
//   leaking_trainer federated --dir SITE ...           as tidegate-onshore starts a trainer
//   leaking_trainer finetune --data FILE ...           as it starts a local job
//   leaking_trainer loose --records FILE --plan FILE --report FILE      the control, without walls
#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "base/log.h"
#include "onshore/ipc/peer.h"
#include "onshore/start/start.h"
#include "tests/canary/leaks.h"
#include "tests/canary/smuggled_updates.h"

namespace tidegate::canary {
namespace {

using onshore::BulkKind;
using onshore::IpcType;
using Arguments = std::map<std::string, std::string>;

Result<onshore::Started> RaiseWalls(const Arguments& arguments, uint32_t generation) {
  const std::filesystem::path site = arguments.at("--dir");
  onshore::StartSpec spec;
  spec.walls.role = onshore::Role::kTrainer;
  spec.walls.kept_fds = {{onshore::kFirstPeerFd, onshore::FdKind::kChannel}};
  spec.walls.read_only = {arguments.at("--base"), arguments.at("--records")};
  spec.walls.read_write = {site / "trainer"};
  TG_ASSIGN_OR_RETURN(spec.demanded, onshore::ParseWallSet(arguments.at("--walls")));
  spec.tries.forbidden = {{"gate_key", (site / "keys" / "gate.key").native()}};
  spec.generation = generation;
  return onshore::StartWalled(spec);
}

// The statement still decodes and says that all is well; the last try has the words for a name.
std::string WithWordsAsTry(std::string statement, const std::string& words) {
  const size_t begin = statement.rfind("\ntry ") + 5;
  const size_t end = statement.find(' ', begin);
  return statement.replace(begin, end - begin, words.substr(0, sizeof(onshore::TryRow::name) - 1));
}

class Federated {
 public:
  Federated(const Arguments& arguments, uint32_t generation, Plan plan, std::string words,
            std::string statement, Report& report)
      : plan_(std::move(plan)),
        words_(std::move(words)),
        statement_(std::move(statement)),
        report_(report),
        gate_(Fd(onshore::kFirstPeerFd), generation) {
    facts_.site = arguments.at("--name");
  }

  Status Run() {
    TG_RETURN_IF_ERROR(gate_.SendHello(false));
    while (!stopped_) {
      TG_RETURN_IF_ERROR(gate_.Flush());
      TG_ASSIGN_OR_RETURN(const auto received, gate_.Receive());
      if (received) {
        TG_RETURN_IF_ERROR(Handle(*received));
      } else {
        TG_RETURN_IF_ERROR(Wait());
      }
    }
    return OkStatus();
  }

 private:
  Status Wait() {
    const short gate = static_cast<short>(POLLIN | (gate_.WantsWrite() ? POLLOUT : 0));
    pollfd fds[2] = {{gate_.fd(), gate, 0}, {onshore::kControlFd, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return ErrnoStatus("poll", "the pairs", errno);
    if (fds[1].revents == 0) return OkStatus();
    TG_ASSIGN_OR_RETURN(const auto message, onshore::ReceiveControl());
    stopped_ = message && message->type == onshore::ControlType::kStop;
    return OkStatus();
  }

  Status Handle(const onshore::Peer::Received& received) {
    if (received.bulk) {
      if (received.bulk->kind != BulkKind::kJob) return OkStatus();
      auto job = protocols::Decode<protocols::JobManifest>(received.bulk->bytes);
      if (!job) return DataLoss("a job manifest: {}", job.error().reason);
      facts_.job = std::move(*job);
      return OkStatus();
    }
    if (received.type == IpcType::kHello) {
      return gate_.Send(IpcType::kIsolation, onshore::Isolation{statement_});
    }
    if (received.type == IpcType::kStop) stopped_ = true;
    if (received.type == IpcType::kRoundStart) {
      const auto start = protocols::Decode<onshore::RoundStart>(received.body);
      if (!start) return DataLoss("a round's start: {}", start.error().reason);
      return StartRound(*start);
    }
    if (received.type == IpcType::kRoundResult) {
      const auto result = protocols::Decode<onshore::RoundResult>(received.body);
      if (!result) return DataLoss("a round's result: {}", result.error().reason);
      return OnResult(*result);
    }
    return OkStatus();
  }

  Status StartRound(const onshore::RoundStart& start) {
    facts_.start = start;
    if (plan_.refused) waiting_ = UpdatesToRefuse(facts_, words_);
    if (plan_.weights) {
      waiting_.push_back({"in small weights", UpdateWithHiddenWords(facts_, words_)});
    } else {
      waiting_.push_back({"of no words", HonestUpdate(facts_)});
    }
    next_ = 0;
    return SendNext();
  }

  Status OnResult(const onshore::RoundResult& result) {
    if (next_ == 0) return OkStatus();
    const bool released = result.outcome == onshore::RoundOutcome::kReleased;
    report_.Add("update " + waiting_[next_ - 1].how, released ? "released" : result.reason.text);
    return SendNext();
  }

  Status SendNext() {
    if (next_ == waiting_.size()) return OkStatus();
    return gate_.SendBulk(BulkKind::kUpdate, {}, facts_.start.round, waiting_[next_++].update);
  }

  Plan plan_;
  std::string words_, statement_;
  Report& report_;
  onshore::Peer gate_;
  RoundFacts facts_;
  std::vector<Smuggled> waiting_;
  size_t next_ = 0;
  bool stopped_ = false;
};

Status RunFederated(const Arguments& arguments) {
  const auto generation = static_cast<uint32_t>(std::stoul(arguments.at("--generation")));
  const std::filesystem::path own = std::filesystem::path(arguments.at("--dir")) / "trainer";
  TG_ASSIGN_OR_RETURN(onshore::Started started, RaiseWalls(arguments, generation));
  Report report(own / "report");
  TG_ASSIGN_OR_RETURN(Plan plan, ReadPlan(own / "plan"));
  TG_ASSIGN_OR_RETURN(const std::string words, FirstRecord(arguments.at("--records")));
  LeakToFiles(plan, words, report);
  if (plan.pair) LeakByPair(onshore::kFirstPeerFd, words, report);
  if (plan.words) LeakToOutput(words, report);
  if (plan.event) {
    const ByteSpan bytes = AsBytes(words);
    onshore::SendEvent(onshore::EventCode::kTrained, generation,
                       {static_cast<int64_t>(LoadLe64(bytes.data())),
                        static_cast<int64_t>(LoadLe64(bytes.data() + 8)),
                        static_cast<int64_t>(LoadLe64(bytes.data() + 16)),
                        static_cast<int64_t>(LoadLe64(bytes.data() + 24))});
  }
  if (plan.dial != 0) LeakToListener(plan.dial, words, report);
  if (plan.statement) started.statement = WithWordsAsTry(std::move(started.statement), words);
  return Federated(arguments, generation, std::move(plan), words, started.statement, report).Run();
}

// As tidegate-onshore starts a local job of a client that hands its records over.
Status RunLocal(const Arguments& arguments) {
  TG_ASSIGN_OR_RETURN(const std::string words, FirstRecord(arguments.at("--data")));
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    TG_RETURN_IF_ERROR(WriteAll(fd, AsBytes(words + "\n"), "the client's pipe"));
  }
  return OkStatus();
}

Status RunLoose(const Arguments& arguments) {
  Report report(arguments.at("--report"));
  TG_ASSIGN_OR_RETURN(const Plan plan, ReadPlan(arguments.at("--plan")));
  TG_ASSIGN_OR_RETURN(const std::string words, FirstRecord(arguments.at("--records")));
  LeakToFiles(plan, words, report);
  if (plan.dial != 0) LeakToListener(plan.dial, words, report);
  if (plan.words) LeakToOutput(words, report);
  return OkStatus();
}

}  // namespace
}  // namespace tidegate::canary

int main(int argc, char** argv) {
  using namespace tidegate;
  SetLogProcess("trainer");
  canary::Arguments arguments;
  for (int i = 2; i + 1 < argc; i += 2) arguments[argv[i]] = argv[i + 1];
  const std::string verb = argc > 1 ? argv[1] : "";
  const Status status = verb == "federated"  ? canary::RunFederated(arguments)
                        : verb == "finetune" ? canary::RunLocal(arguments)
                                             : canary::RunLoose(arguments);
  if (!status.ok()) LogError("leaking_trainer_ended {}", status.ToString());
  ::_exit(static_cast<int>(status.code()));
}
