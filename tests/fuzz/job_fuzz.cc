// A job file, or the config.json that came with it: the first byte says which the rest is. What is
// accepted is a manifest that encodes, with parameters for all of its layout.
#include "federation/job/job_file.h"

#include "federation/shared/layout.h"
#include "fuzz.h"
#include "model/adapter.h"
#include "protocols/update.h"

namespace tidegate::fuzz {
namespace {

constexpr const char* kJob =
    "base = \"../base\"\nname = \"triage\"\nrounds = 6\nquorum = 2\ndeadline_seconds = 900.5\n"
    "sites = [\"north\", \"south\"]\ncodec = \"int4\"\nrounding = \"stochastic\"\n"
    "error_feedback = true\nstrategy = \"fedit\"\nweighting = "
    "\"tokens\"\nmax_weight = 4096\nserver_learning_rate = 1.0\nnorm_clip = 2.5\nseed = 7\n"
    "[lora]\nr = 4\nalpha = 8\ndropout = 0.05\ntargets = [\"q_proj\", \"v_proj\"]\n[train]\n"
    "local_steps = 8\nbatch_size = 2\ngradient_accumulation_steps = 1\nlearning_rate = 2e-4\n"
    "scheduler = \"cosine\"\nwarmup_steps = 3\nweight_decay = 0.0\nmax_grad_norm = 1.0\n"
    "max_length = 128\npacking = true\nassistant_only_loss = false\n";

// A base whose adapter is within the limits of a job and too large for a fuzzer.
bool IsLarge(std::string_view text) {
  const auto base = model::ParseHfConfig(text, "config.json");
  if (!base) return false;
  model::LoraConfig lora;
  lora.r = 4;
  lora.targets = {model::Module::kQ, model::Module::kV};
  int64_t parameters = 0;
  for (const model::AdapterTensor& t : model::AdapterLayout(*base, lora)) parameters += t.count();
  return parameters > (1 << 22) && parameters <= static_cast<int64_t>(protocols::kMaxUpdateValues);
}

const std::string& Config() {
  static const std::string text = SourceFile("tests/golden/tiny_llama/config.json");
  return text;
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {std::string(1, '\0') + kJob, std::string(1, '\0') + "base = \"b\"\n",
                  '\1' + Config()};
  // The largest adapter of the tiny base, rank 1024, twice.
  target.memory = 128u << 20;
  target.memory_per_byte = 1024;
  return target;
}

void Make(bool config, std::string_view text) {
  federation::JobSource source;
  source.file = "job.toml";
  source.text = config ? std::string(kJob) : std::string(text);
  source.model_config = config ? std::string(text) : Config();
  if (config && IsLarge(text)) return;
  const auto job = federation::MakeJob(source, {}, {"north", "south", "west"}, 1795581436000);
  if (!job) return;
  Require(job->parameters.size() ==
              protocols::UpdateValues(job->manifest.layout, federation::kBothGroups),
          "a job has the parameters of its layout");
  const auto again = protocols::Decode<protocols::JobManifest>(protocols::Encode(job->manifest));
  Require(again && *again == job->manifest, "a job's manifest encodes");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  fuzz::Make(data[0] % 2 == 1, AsText({data + 1, size - 1}));
  return 0;
}
