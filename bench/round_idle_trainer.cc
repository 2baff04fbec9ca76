// Stands in for tidegate-trainer in round_processes_bench: behind the same walls, on the same pair,
// it answers each round at once with the same delta, which it encoded in the first. What a round
// takes with it is what a round takes beside training.
#include <poll.h>

#include <CLI/CLI.hpp>
#include <cstring>

#include "base/log.h"
#include "crypto/document.h"
#include "crypto/hash.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"
#include "onshore/ipc/peer.h"
#include "onshore/start/start.h"
#include "onshore/start/stop.h"

namespace tidegate {
namespace {

namespace fs = std::filesystem;
using onshore::IpcType;

struct Options {
  uint32_t generation = 0;
  fs::path site, base, records;
  std::string name, walls;
};

class Trainer {
 public:
  Trainer(const Options& options, std::string statement)
      : options_(options),
        statement_(std::move(statement)),
        gate_(Fd(onshore::kFirstPeerFd), options.generation) {}

  Status Run() {
    TG_RETURN_IF_ERROR(gate_.SendHello(false));
    for (;;) {
      TG_ASSIGN_OR_RETURN(const bool stop, onshore::StopAsked());
      if (stop) return OkStatus();
      TG_RETURN_IF_ERROR(gate_.Flush());
      TG_ASSIGN_OR_RETURN(const auto received, gate_.Receive());
      if (received && received->type == IpcType::kStop) return OkStatus();
      if (received) {
        TG_RETURN_IF_ERROR(On(*received));
        continue;
      }
      pollfd fds[2] = {
          {gate_.fd(), static_cast<short>(POLLIN | (gate_.WantsWrite() ? POLLOUT : 0)), 0},
          {onshore::kControlFd, POLLIN, 0}};
      TG_RETURN_IF_ERROR(onshore::WaitFor(fds, -1));
    }
  }

 private:
  Status On(const onshore::Peer::Received& received) {
    if (received.type == IpcType::kHello) {
      return gate_.Send(IpcType::kIsolation, onshore::Isolation{statement_});
    }
    if (received.bulk && received.bulk->kind == onshore::BulkKind::kJob) {
      return OnJob(received.bulk->bytes);
    }
    if (received.bulk && received.bulk->kind == onshore::BulkKind::kParameters) {
      parameters_.resize(received.bulk->bytes.size() / sizeof(float));
      std::memcpy(parameters_.data(), received.bulk->bytes.data(), received.bulk->bytes.size());
    }
    if (received.type != IpcType::kRoundStart) return OkStatus();
    const auto start = protocols::Decode<onshore::RoundStart>(received.body);
    return start ? Answer(*start) : InvalidArgument("a RoundStart: {}", start.error().reason);
  }

  Status OnJob(ByteSpan bytes) {
    auto job = protocols::Decode<protocols::JobManifest>(bytes);
    if (!job) return InvalidArgument("a job: {}", job.error().reason);
    job_ = std::move(*job);
    return OkStatus();
  }

  Status Answer(const onshore::RoundStart& start) {
    onshore::Dataset dataset;
    dataset.job = start.job;
    dataset.records[0] = 1;
    TG_RETURN_IF_ERROR(gate_.Send(IpcType::kDataset, dataset));
    if (update_.empty()) TG_RETURN_IF_ERROR(MakeUpdate(start));
    // The numbers of the round before, as if the site had found them again.
    TG_ASSIGN_OR_RETURN(protocols::UpdateHeader header, HeaderOf(update_));
    header.round = start.round;
    protocols::WriteUpdateHeader(header, update_.data());
    return gate_.SendBulk(onshore::BulkKind::kUpdate, {}, start.round, update_);
  }

  static Result<protocols::UpdateHeader> HeaderOf(ByteSpan update) {
    const auto header = protocols::ReadUpdateHeader(update);
    return header ? Result<protocols::UpdateHeader>(*header)
                  : Unexpected(Internal("{}", header.error().reason));
  }

  Status MakeUpdate(const onshore::RoundStart& start) {
    std::vector<float> result = parameters_;
    for (size_t i = 0; i < result.size(); ++i) {
      result[i] += (static_cast<float>(i * 37 % 201) - 100.0f) * 0x1p-22f;
    }
    TG_RETURN_IF_ERROR(federation::SnapAllToGrid(result));
    protocols::UpdateHeader header;
    header.job = start.job;
    header.round = start.round;
    header.phase = start.phase;
    header.groups = job_.phase_groups.items[start.phase];
    header.codec = job_.codec;
    std::copy(options_.name.begin(), options_.name.end(), header.site.begin());
    header.base_hash = job_.base_hash;
    header.layout_digest = crypto::Sha256::Of(protocols::Encode(job_.layout));
    header.weight = 1;
    TG_ASSIGN_OR_RETURN(update_,
                        federation::EncodeUpdate(header, job_.layout, parameters_, result, 0));
    return OkStatus();
  }

  const Options& options_;
  std::string statement_;
  onshore::Peer gate_;
  protocols::JobManifest job_;
  std::vector<float> parameters_;
  Bytes update_;
};

Status Run(const Options& options) {
  onshore::CatchStopSignals();
  const fs::path own = options.site / "trainer";
  std::error_code error;
  fs::create_directories(own, error);
  onshore::StartSpec spec;
  spec.walls.role = onshore::Role::kTrainer;
  spec.walls.kept_fds = {{onshore::kFirstPeerFd, onshore::FdKind::kChannel}};
  spec.walls.read_only = {options.base, options.records};
  spec.walls.read_write = {own};
  TG_ASSIGN_OR_RETURN(spec.demanded, onshore::ParseWallSet(options.walls));
  spec.tries.forbidden = {{"gate_key", (options.site / "keys" / "gate.key").native()},
                          {"link_key", (options.site / "keys" / "link.key").native()},
                          {"policy", (options.site / "policy.toml").native()}};
  spec.generation = options.generation;
  TG_ASSIGN_OR_RETURN(onshore::Started started, onshore::StartWalled(spec));
  return Trainer(options, std::move(started.statement)).Run();
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  using namespace tidegate;
  SetLogProcess("idle_trainer");
  CLI::App app("Answers rounds without training; started by tidegate-onshore in a benchmark.");
  Options options;
  CLI::App* verb = app.add_subcommand("federated", "as tidegate-trainer federated");
  verb->allow_extras();
  verb->add_option("--generation", options.generation)->required();
  verb->add_option("--dir", options.site)->required();
  verb->add_option("--name", options.name)->required();
  verb->add_option("--base", options.base)->required();
  verb->add_option("--records", options.records)->required();
  verb->add_option("--walls", options.walls)->required();
  CLI11_PARSE(app, argc, argv);
  const Status status = Run(options);
  if (status.ok() || status.code() == Code::kCancelled) return 0;
  LogError("idle_trainer_ended {}", status.ToString());
  return static_cast<int>(status.code());
}
