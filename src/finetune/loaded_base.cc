#include "finetune/loaded_base.h"

#include <algorithm>

#include "base/checksum.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "model/memory_plan.h"

namespace tidegate::finetune {
namespace {

namespace fs = std::filesystem;

// Names and contents of `names` that exist in the folder, in the order given.
Result<std::string> ChecksumFiles(const fs::path& dir, const std::vector<std::string>& names) {
  Checksum checksum;
  for (const std::string& name : names) {
    std::error_code error;
    if (!fs::exists(dir / name, error)) continue;
    TG_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(dir / name));
    checksum.AddField(AsBytes(name));
    checksum.AddField(file.bytes());
  }
  return checksum.Hex();
}

Result<std::vector<std::string>> WeightFiles(const fs::path& dir) {
  std::vector<std::string> names = {"config.json"};
  std::error_code error;
  fs::directory_iterator it(dir, error), end;
  for (; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (name.ends_with(".safetensors")) names.push_back(name);
  }
  if (error) return Unexpected(ErrnoStatus("list", dir.native(), error.value()));
  std::sort(names.begin(), names.end());
  return names;
}

// The ends of sequence of config.json and of generation_config.json, where chat models name the
// end of a turn.
Result<std::vector<int32_t>> StopIds(const fs::path& dir, const model::ModelConfig& config) {
  std::vector<int32_t> ids = config.eos_ids;
  const fs::path path = dir / "generation_config.json";
  std::error_code error;
  if (fs::exists(path, error)) {
    TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
    TG_ASSIGN_OR_RETURN(const nlohmann::json json, ParseStrictJson(text, {}, path.native()));
    const auto eos = json.is_object() ? json.find("eos_token_id") : json.end();
    std::vector<nlohmann::json> values;
    if (eos != json.end() && eos->is_array()) values.assign(eos->begin(), eos->end());
    if (eos != json.end() && !eos->is_array() && !eos->is_null()) values = {*eos};
    for (const nlohmann::json& value : values) {
      if (!value.is_number_integer() || value < 0 || value >= config.vocab_size) {
        return InvalidArgument("{}: eos_token_id {} is not an id of the vocabulary of {}",
                               path.native(), value.dump(), config.vocab_size);
      }
      ids.push_back(value.get<int32_t>());
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

Result<LoadedBase> LoadedBase::LoadText(const fs::path& dir) {
  LoadedBase out;
  out.dir = dir;
  TG_ASSIGN_OR_RETURN(out.config, model::LoadHfConfig(dir / "config.json"));
  TG_ASSIGN_OR_RETURN(model::Tokenizer tokenizer, model::Tokenizer::Load(dir / "tokenizer.json"));
  if (tokenizer.vocab_size() > out.config.vocab_size) {
    return InvalidArgument("{}: the tokenizer has {} ids, the model has embeddings for {}",
                           dir.native(), tokenizer.vocab_size(), out.config.vocab_size);
  }
  out.tokenizer = std::make_shared<const model::Tokenizer>(std::move(tokenizer));
  TG_ASSIGN_OR_RETURN(
      out.tokenizer_checksum,
      ChecksumFiles(dir, {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}));
  TG_ASSIGN_OR_RETURN(out.stop_ids, StopIds(dir, out.config));
  TG_ASSIGN_OR_RETURN(std::optional<model::ChatTemplate> chat,
                      model::LoadChatTemplate(dir, out.render));
  if (chat) out.chat = std::make_shared<const model::ChatTemplate>(std::move(*chat));
  // Where a chat model's turns end with another token than config.json says, it ends an answer too.
  if (const auto eos = out.tokenizer->TokenId(out.render.eos_token)) {
    out.stop_ids.push_back(*eos);
    std::sort(out.stop_ids.begin(), out.stop_ids.end());
    out.stop_ids.erase(std::unique(out.stop_ids.begin(), out.stop_ids.end()), out.stop_ids.end());
  }
  return out;
}

Result<model::Quantization> QuantizationOf(const HeldWeights& held) {
  if (held.load_in_8bit && held.load_in_4bit) {
    return InvalidArgument("--load_in_8bit and --load_in_4bit exclude each other: choose one");
  }
  if (held.load_in_8bit) return model::Quantization::kInt8;
  if (!held.load_in_4bit) return model::Quantization::kNone;
  return held.bnb_4bit_use_double_quant ? model::Quantization::kNf4Double
                                        : model::Quantization::kNf4;
}

Result<LoadedBase> LoadedBase::Load(const fs::path& dir, const std::string& dtype, int threads,
                                    const HeldWeights& held, const std::string& device) {
  model::ComputeOptions compute{.threads = threads};
  TG_ASSIGN_OR_RETURN(compute.backend, model::ParseDevice(device));
  TG_ASSIGN_OR_RETURN(compute.dtype, model::ParseDType(dtype, compute.backend));
  TG_ASSIGN_OR_RETURN(compute.quantization, QuantizationOf(held));
  TG_ASSIGN_OR_RETURN(LoadedBase out, LoadText(dir));
  TG_ASSIGN_OR_RETURN(const std::vector<std::string> files, WeightFiles(dir));
  TG_ASSIGN_OR_RETURN(out.base_checksum, ChecksumFiles(dir, files));
  // One thread is left to the scheduler: two processes pinned to the first CPU would share it.
  if (threads > 1) kernels::PinThreads(threads);
  TG_ASSIGN_OR_RETURN(out.base, model::Base::Load(dir, compute));
  return out;
}

const kernels::KernelTable& LoadedBase::kernels() const {
  return *kernels::TableFor(base->compute().backend, base->compute().dtype);
}

const kernels::KernelTable& LoadedBase::host_kernels() const {
  const kernels::KernelTable& own = kernels();
  return own.device == nullptr ? own
                               : *kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kF32);
}

Result<uint64_t> LoadedBase::FreeBytes(uint64_t host_free) const {
  if (const kernels::Device* device = kernels().device) {
    try {
      return device->free_bytes();
    } catch (const kernels::DeviceError& error) {
      return Unavailable("{}", error.what());
    }
  }
  const uint64_t weights = model::WeightBytes(config, base->compute());
  return host_free - std::min(host_free, weights);
}

std::string LoadedBase::dtype_name() const {
  const model::ComputeOptions& compute = base->compute();
  const std::string name = compute.dtype == kernels::DType::kBF16 ? "bf16" : "f32";
  if (compute.quantization == model::Quantization::kNone) return name;
  return fmt::format("{}, base in {}", name, model::QuantizationName(compute.quantization));
}

}  // namespace tidegate::finetune
