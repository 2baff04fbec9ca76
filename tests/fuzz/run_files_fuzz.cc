// Files that a run reads back from its own folder: metrics.jsonl, as the page of curves and as what
// a resume keeps, and the trainer's note of its round.
#include "fuzz.h"
#include "onshore/trainer/round_file.h"
#include "runlog/progress.h"
#include "runlog/run_page.h"

namespace tidegate::fuzz {
namespace {

const Folder& Files() {
  static const Folder folder;
  return folder;
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {
      R"({"event":"start","version":"0.1.0","train":{"examples":5},"run":{"lora_r":8,"x":"<b>"}})"
      "\n"
      R"({"event":"step","step":1,"epoch":0.5,"loss":2.25,"learning_rate":0.0002,"grad_norm":1.5,)"
      R"("tokens":100,"targets":50,"tokens_per_second":1000.0,"skipped":false})"
      "\n"
      R"({"event":"eval","step":1,"nll":2.0})"
      "\n"
      R"({"event":"step","step":2,"loss":2.0,"learning_rate":0.0001,"grad_norm":1.0})"
      "\n"
      R"({"event":"end","stopped":true})"
      "\n",
      R"({"round":3,"adapter_version":2,"begin_step":8,"end_step":12,"at_step":10,"loss_sum":4.5,)"
      R"("targets":99,"trained":true,"weight":1,"train_loss_milli":2000,"heldout_loss_milli":0,)"
      R"("residuals":["kept-2",""]})"};
  target.memory = 8u << 20;
  target.memory_per_byte = 512;
  return target;
}

void Read(std::string_view text) {
  Files().Put("metrics.jsonl", text);
  Files().Put("round.json", text);
  (void)runlog::WriteRunPage(Files().path());
  const auto note = trainer::LoadRoundNote(Files().path());
  if (note && *note) {
    Require(trainer::SaveRoundNote(Files().path(), **note).ok(), "a note can be written");
    const auto again = trainer::LoadRoundNote(Files().path());
    Require(again && *again && (**again).end_step == (**note).end_step &&
                (**again).weight == (**note).weight,
            "a note that is written reads as itself");
  }
  const auto metrics = runlog::MetricsFile::Open(Files().path() + "/metrics.jsonl", 1);
  Require(metrics.has_value(), "a resume opens its metrics");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tidegate::fuzz::Read(tidegate::AsText({data, size}));
  return 0;
}
