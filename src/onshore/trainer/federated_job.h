// One federated job at this site: adapters in, updates out. No descriptors in here.
//
// Moments and data cursor live on across rounds; the parameters are replaced by each round's
// adapter version, save those that the job's strategy leaves to the site and those of its local
// adapter (adapter_view.h). The schedule goes by versions: a site that missed some goes on where
// the job is. A round that published no version counts as never trained. The update of a round is a
// function of the states before it, residuals included: trained again after a crash, or in parts,
// it has the same bytes. Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "finetune/session.h"
#include "onshore/ipc/messages.h"
#include "onshore/trainer/adapter_view.h"
#include "onshore/trainer/job_config.h"
#include "onshore/trainer/round_file.h"
#include "protocols/update.h"

namespace tidegate::trainer {

// What is to become of a round under way.
enum class RoundWish : uint8_t {
  kGoOn,
  kPause,  // save it: the process ends, and the next one goes on from this optimizer step
  kDrop,   // nobody wants it any more: the next round goes on from the state before it
};

// Each may be empty.
struct Progress {
  std::function<void(uint32_t round, int64_t steps, double loss)> trained;
  std::function<void(uint32_t version, double before, double after, bool kept)> evaluated;
  // Asked after each optimizer step of a round but the last.
  std::function<RoundWish(uint32_t round)> wish;
  // Asked during an evaluation: true ends it.
  std::function<bool()> stop;
};

class FederatedJob {
 public:
  // Loads base and records, checks base hash and layout against the job, restores the newest state.
  // `encoded` is the JobManifest as the gate verified it.
  static Result<std::unique_ptr<FederatedJob>> Open(ByteSpan encoded, const SiteOptions& options,
                                                    Progress progress);
  // The same with the job's base, which is loaded already: for sites that are played on one
  // machine.
  static Result<std::unique_ptr<FederatedJob>> OpenOn(const finetune::LoadedBase& base,
                                                      ByteSpan encoded, const SiteOptions& options,
                                                      Progress progress);

  // A site that lasts for one round and leaves nothing: no folder, and its moments and data cursor
  // end with the object. `job` need not name its sites. kUnsupported for jobs whose sites keep
  // something from round to round.
  static Result<std::unique_ptr<FederatedJob>> OpenLight(const finetune::LoadedBase& base,
                                                         const protocols::JobManifest& job,
                                                         const protocols::Id16& id,
                                                         const SiteOptions& options,
                                                         finetune::TrainingData data,
                                                         Progress progress);

  const protocols::Id16& id() const { return id_; }
  std::optional<uint32_t> version() const { return version_; }

  // A version of the shared adapter: float32 parameters of the whole layout. Evaluates it on the
  // held-out records, if there are any, and keeps it in SITE/trainer/adapter as a PEFT folder
  // unless the one there, of this job or of another on the same base and held-out records, is
  // better.
  // kCancelled when Progress::stop said so.
  Status SetAdapter(uint32_t version, ByteSpan parameters);

  // Trains the round unless that is done, and encodes its update. kCancelled when Progress::wish
  // was other than to go on, kFailedPrecondition when the adapter version is not the one set.
  Result<Bytes> RunRound(const onshore::RoundStart& start);

 private:
  FederatedJob(protocols::JobManifest job, SiteOptions options, Progress progress)
      : job_(std::move(job)), options_(std::move(options)), progress_(std::move(progress)) {}
  static Result<std::unique_ptr<FederatedJob>> Decode(ByteSpan encoded, const SiteOptions& options,
                                                      Progress progress);
  Status Load(const finetune::LoadedBase* base);
  Status CheckLayout();
  std::vector<float> Together(std::span<const float> own) const;
  Status SetTrained(uint8_t shared);
  Status KeepIfBetter(uint32_t version, const train::EvalResult& eval);
  Result<RoundNote> Begin(const onshore::RoundStart& start, const std::optional<RoundNote>& before);
  Status Train(RoundNote& note);
  Status Finish(RoundNote& note, double loss_sum, int64_t targets, double seconds);
  Status GoTo(int64_t step);
  Status SaveState(const RoundNote& note);
  Status KeepStates(int64_t begin_step);
  void Settle(const onshore::RoundStart& start, const std::optional<RoundNote>& before,
              RoundNote* note) const;
  Result<Bytes> Encode(const onshore::RoundStart& start, const RoundNote& note) const;
  Status AddResidual(const RoundNote& note, uint8_t phase, std::vector<double>* delta) const;
  Status SaveResiduals(uint32_t round, const Bytes& update,
                       const std::vector<double>& clipped) const;
  Status AppendRoundLine(const RoundNote& note, double seconds) const;

  protocols::JobManifest job_;
  protocols::Id16 id_{};
  SiteOptions options_;
  Progress progress_;
  protocols::Layout layout_;
  std::unique_ptr<finetune::Session> session_;
  bool leaves_nothing_ = false;
  std::optional<AdapterView> view_;
  std::vector<float> first_;  // the trained adapter before any round
  std::vector<float> start_;  // the shared parameters of version_
  std::optional<uint32_t> version_;
  uint32_t heldout_milli_ = 0;
};

}  // namespace tidegate::trainer
