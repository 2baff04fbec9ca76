// What the gate judges: a job's manifest, an update, a shared adapter's parameters. The first byte
// says which the rest is. A job that the gate takes can be trained and encoded; an update that it
// clears is the one that came.
#include "fuzz.h"
#include "gate/review.h"
#include "onshore/trainer/job_config.h"
#include "tests/gate/gate_samples.h"

namespace tidegate::fuzz {
namespace {

const protocols::JobManifest& Job() {
  static const protocols::JobManifest job = gate::SampleJob();
  return job;
}

}  // namespace

Target Describe() {
  Target target;
  protocols::JobManifest exact = Job();
  exact.codec = protocols::Codec::kFixed32;
  const std::string update = Text(gate::SampleUpdate(Job(), gate::SampleHeader(Job(), 1)));
  target.seeds = {'\0' + Text(protocols::Encode(Job())), '\0' + Text(protocols::Encode(exact)),
                  '\1' + update, std::string("\2") + std::string(16, '\0')};
  return target;
}

void JudgeJob(ByteSpan bytes) {
  const auto job = protocols::Decode<protocols::JobManifest>(bytes);
  if (!job) return;
  const protocols::Id16 id = gate::IdOf(*job);
  const std::string site = "north";
  if (gate::ReviewJob({gate::SamplePolicy(), *job, id, site})) return;
  const uint64_t values = protocols::UpdateValues(job->layout, 0xff);
  Require(values > 0 && values <= protocols::kMaxUpdateValues, "a job's layout is bounded");
  Require(protocols::UpdateBytes(job->layout, 3, job->codec) < 8 * protocols::kMaxUpdateValues,
          "a job's update is bounded");
  // The trainer has its say too.
  trainer::SiteOptions options;
  options.base = "base";
  options.records = "records.jsonl";
  options.site = "site";
  (void)trainer::ConfigOf(*job, id, options).has_value();
}

void JudgeUpdate(ByteSpan bytes) {
  static const protocols::Id16 id = gate::IdOf(Job());
  static const Digest layout = gate::LayoutDigest(Job());
  static const protocols::RoundAnnouncement round = gate::SampleRound(Job(), 1);
  const auto verdict = gate::Review::JudgeUpdate({gate::SamplePolicy(),
                                                  Job(),
                                                  round,
                                                  id,
                                                  "north",
                                                  layout,
                                                  bytes,
                                                  crypto::SealedSizeOf(bytes.size()).bytes,
                                                  {},
                                                  false,
                                                  std::nullopt});
  Require(verdict.cleared.has_value() != verdict.refusal.has_value(), "a judgement is one of two");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  const ByteSpan rest(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      fuzz::JudgeJob(rest);
      break;
    case 1:
      fuzz::JudgeUpdate(rest);
      break;
    default:
      (void)gate::ParametersRule(rest);
  }
  return 0;
}
