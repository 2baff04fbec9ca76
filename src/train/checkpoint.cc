#include "train/checkpoint.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/checksum.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

namespace tidegate::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kMagic = "TGSTATE1";
constexpr size_t kPrefixBytes = 16;  // magic and header size
constexpr size_t kSealBytes = 8;
constexpr std::string_view kSuffix = ".tgstate";
constexpr size_t kMaxParts = 16;
constexpr std::string_view kPartNames[] = {"parameters", "m", "v"};

ByteSpan BytesOf(std::span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

std::string HexOf(uint64_t value) { return fmt::format("{:016x}", value); }

json HeaderOf(const TrainState& state, const Identity& identity) {
  json header;
  header["rng_scheme"] = kRngScheme;
  header["identity"] = identity;
  header["count"] = state.parameters.size();
  // A number where there is one part, as there always was before adapters had more.
  const std::vector<int64_t>& updates = state.moments.updates;
  header["updates"] = updates.size() == 1 ? json(updates[0]) : json(updates);
  header["step"] = state.step;
  header["micro_steps"] = state.micro_steps;
  header["epoch"] = state.cursor.epoch;
  header["batch"] = state.cursor.index;
  header["seed"] = HexOf(state.seed);
  header["tokens_seen"] = state.tokens_seen;
  header["targets_seen"] = state.targets_seen;
  header["skipped_windows"] = state.skipped_windows;
  header["best"] = {{"step", state.best.step},
                    {"nll", HexOf(std::bit_cast<uint64_t>(state.best.nll))},
                    {"evaluations_since", state.best.evaluations_since},
                    {"last_step", state.best.last_step},
                    {"parameters_checksum", state.best.parameters_checksum}};
  header["parts"] = {{"parameters", HexOf(ChecksumOf(BytesOf(state.parameters)))},
                     {"m", HexOf(ChecksumOf(BytesOf(state.moments.m)))},
                     {"v", HexOf(ChecksumOf(BytesOf(state.moments.v)))}};
  return header;
}

Result<uint64_t> ReadHex(const json& value, std::string_view name) {
  uint64_t out = 0;
  const auto& text = value.get_ref<const std::string&>();
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, out, 16);
  if (error != std::errc() || at != end || text.size() != 16) {
    return DataLoss("{}: '{}' in the header is not 16 hex digits", name, text);
  }
  return out;
}

// get<int64_t>() would convert whatever number is there.
int64_t CountOf(const json& value, const char* key) {
  if (!value.is_number_unsigned() || !std::in_range<int64_t>(value.get<uint64_t>())) {
    throw std::out_of_range(key);
  }
  return value.get<int64_t>();
}

int64_t ReadCount(const json& header, const char* key) { return CountOf(header.at(key), key); }

uint32_t ReadWord(const json& header, const char* key) {
  const int64_t value = ReadCount(header, key);
  if (value > UINT32_MAX) throw std::out_of_range(key);
  return static_cast<uint32_t>(value);
}

// Fills everything but the three parts. Throws what nlohmann throws on a missing or mistyped key.
Status ReadScalars(const json& header, std::string_view name, LoadedState* out) {
  TrainState& state = out->state;
  const uint32_t scheme = ReadWord(header, "rng_scheme");
  if (scheme != kRngScheme) {
    return FailedPrecondition(
        "{} was written with random-number scheme {}, this program has scheme {}; resume it with "
        "the version that wrote it",
        name, scheme, kRngScheme);
  }
  out->identity = header.at("identity").get<Identity>();
  const json& updates = header.at("updates");
  if (updates.is_array()) {
    if (updates.size() > kMaxParts) throw std::out_of_range("updates");
    state.moments.updates.clear();
    for (const json& value : updates) state.moments.updates.push_back(CountOf(value, "updates"));
  } else {
    state.moments.updates = {ReadCount(header, "updates")};
  }
  state.step = ReadCount(header, "step");
  state.micro_steps = ReadWord(header, "micro_steps");
  state.cursor.epoch = ReadWord(header, "epoch");
  state.cursor.index = static_cast<uint64_t>(ReadCount(header, "batch"));
  state.tokens_seen = ReadCount(header, "tokens_seen");
  state.targets_seen = ReadCount(header, "targets_seen");
  state.skipped_windows = ReadCount(header, "skipped_windows");
  TG_ASSIGN_OR_RETURN(state.seed, ReadHex(header.at("seed"), name));
  const json& best = header.at("best");
  state.best.step = ReadCount(best, "step");
  TG_ASSIGN_OR_RETURN(const uint64_t nll, ReadHex(best.at("nll"), name));
  state.best.nll = std::bit_cast<double>(nll);
  state.best.evaluations_since = ReadCount(best, "evaluations_since");
  // States of before early stopping have none: what was due by then was done.
  state.best.last_step = best.contains("last_step") ? ReadCount(best, "last_step") : state.step;
  state.best.parameters_checksum = best.at("parameters_checksum").get<std::string>();
  return OkStatus();
}

Status ReadParts(const json& header, ByteSpan body, std::string_view name, TrainState* state) {
  const auto count = static_cast<uint64_t>(ReadCount(header, "count"));
  if (count > kMaxCheckpointBytes / 12 || body.size() != count * 12) {
    return DataLoss("{} has {} bytes of tensors where its header promises 3 · {} floats", name,
                    body.size(), count);
  }
  std::vector<float>* parts[] = {&state->parameters, &state->moments.m, &state->moments.v};
  for (size_t i = 0; i < std::size(parts); ++i) {
    const ByteSpan bytes = body.subspan(i * count * 4, count * 4);
    TG_ASSIGN_OR_RETURN(const uint64_t promised,
                        ReadHex(header.at("parts").at(std::string(kPartNames[i])), name));
    if (ChecksumOf(bytes) != promised) {
      return DataLoss("{}: the checksum of '{}' does not match", name, kPartNames[i]);
    }
    parts[i]->resize(count);
    if (count > 0) std::memcpy(parts[i]->data(), bytes.data(), bytes.size());
  }
  return OkStatus();
}

}  // namespace

Bytes EncodeState(const TrainState& state, const Identity& identity) {
  static_assert(std::endian::native == std::endian::little);
  const std::string header = HeaderOf(state, identity).dump();
  Bytes out(kPrefixBytes);
  std::copy(kMagic.begin(), kMagic.end(), out.begin());
  StoreLe64(&out[8], header.size());
  out.reserve(kPrefixBytes + header.size() + 12 * state.parameters.size() + kSealBytes);
  out.insert(out.end(), header.begin(), header.end());
  for (const auto* part : {&state.parameters, &state.moments.m, &state.moments.v}) {
    const ByteSpan bytes = BytesOf(*part);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  const uint64_t seal = ChecksumOf(out);
  out.resize(out.size() + kSealBytes);
  StoreLe64(&out[out.size() - kSealBytes], seal);
  return out;
}

Result<LoadedState> DecodeState(ByteSpan bytes, std::string_view name) {
  if (bytes.size() < kPrefixBytes + kSealBytes || AsText(bytes.first(8)) != kMagic) {
    return DataLoss("{} is not a training state, or is cut short", name);
  }
  const ByteSpan sealed = bytes.first(bytes.size() - kSealBytes);
  if (ChecksumOf(sealed) != LoadLe64(bytes.data() + sealed.size())) {
    return DataLoss("{} is damaged: its checksum does not match", name);
  }
  const uint64_t header_size = LoadLe64(bytes.data() + 8);
  if (header_size > kMaxCheckpointHeaderBytes || header_size > sealed.size() - kPrefixBytes) {
    return DataLoss("{}: a header of {} bytes does not fit", name, header_size);
  }
  TG_ASSIGN_OR_RETURN(const json header,
                      ParseStrictJson(AsText(sealed.subspan(kPrefixBytes, header_size)),
                                      {.max_bytes = kMaxCheckpointHeaderBytes}, name));
  LoadedState loaded;
  try {
    TG_RETURN_IF_ERROR(ReadScalars(header, name, &loaded));
    TG_RETURN_IF_ERROR(
        ReadParts(header, sealed.subspan(kPrefixBytes + header_size), name, &loaded.state));
  } catch (const json::exception& e) {
    return DataLoss("{}: bad header: {}", name, e.what());
  } catch (const std::out_of_range& e) {
    return DataLoss("{}: bad header: '{}' is out of range", name, e.what());
  }
  return loaded;
}

Status CheckIdentity(const Identity& stored, const Identity& current, std::string_view name) {
  std::string differences;
  auto note = [&](const std::string& key, const std::string& was, const std::string& is) {
    if (key.starts_with(kAboutPrefix)) {
      LogWarning("resume_elsewhere {} was {} and is {}: the last bits may differ", key, was, is);
      return;
    }
    differences +=
        fmt::format("{}{} was {} and is {}", differences.empty() ? "" : "; ", key, was, is);
  };
  for (const auto& [key, value] : current) {
    const auto it = stored.find(key);
    if (it == stored.end()) {
      note(key, "absent", value);
    } else if (it->second != value) {
      note(key, it->second, value);
    }
  }
  for (const auto& [key, value] : stored) {
    if (!current.contains(key)) note(key, value, "absent");
  }
  if (differences.empty()) return OkStatus();
  return FailedPrecondition(
      "{} belongs to another run: {}. Resume with the same settings and inputs, or start anew in "
      "another output_dir",
      name, differences);
}

CheckpointStore::CheckpointStore(fs::path folder, int keep)
    : folder_(std::move(folder)), keep_(std::max(1, keep)) {}

fs::path CheckpointStore::PathOf(int64_t step) const {
  return folder_ / fmt::format("step-{:08d}{}", step, kSuffix);
}

Result<std::vector<int64_t>> CheckpointStore::Steps() const {
  std::vector<int64_t> steps;
  std::error_code error;
  fs::directory_iterator it(folder_, error), end;
  if (error == std::errc::no_such_file_or_directory) return steps;
  for (; !error && it != end; it.increment(error)) {
    const std::string file = it->path().filename().native();
    if (!file.starts_with("step-") || !file.ends_with(kSuffix)) continue;
    int64_t step = 0;
    const char* last = file.data() + file.size() - kSuffix.size();
    const auto [at, bad] = std::from_chars(file.data() + 5, last, step);
    if (bad == std::errc() && at == last && step >= 0) steps.push_back(step);
  }
  if (error) return Unexpected(ErrnoStatus("list", folder_.native(), error.value()));
  std::sort(steps.begin(), steps.end());
  return steps;
}

Status CheckpointStore::Save(const TrainState& state, const Identity& identity) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return ErrnoStatus("create", folder_.native(), error.value());
  TG_RETURN_IF_ERROR(WriteFileDurably(PathOf(state.step), EncodeState(state, identity), 0600));
  TG_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, Steps());
  const size_t extra = steps.size() - std::min(steps.size(), static_cast<size_t>(keep_));
  for (size_t i = 0; i < extra; ++i) {
    if (steps[i] == state.step) continue;  // older than what a former run left: still the newest
    fs::remove(PathOf(steps[i]), error);
    if (error) LogWarning("checkpoint_not_removed path={}", PathOf(steps[i]).native());
  }
  return OkStatus();
}

Result<TrainState> CheckpointStore::Load(int64_t step, const Identity& current) const {
  const fs::path path = PathOf(step);
  TG_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, kMaxCheckpointBytes));
  TG_ASSIGN_OR_RETURN(LoadedState loaded, DecodeState(bytes, path.native()));
  TG_RETURN_IF_ERROR(CheckIdentity(loaded.identity, current, path.native()));
  return std::move(loaded.state);
}

Result<std::optional<TrainState>> CheckpointStore::LoadNewest(const Identity& current) const {
  TG_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, Steps());
  Status last_error;
  for (auto it = steps.rbegin(); it != steps.rend(); ++it) {
    Result<TrainState> state = Load(*it, current);
    if (state) return std::optional<TrainState>(std::move(*state));
    if (state.error().code() != Code::kDataLoss) return Unexpected(state.error());
    last_error = state.error();
    LogWarning("checkpoint_damaged {}", last_error.message());
  }
  if (!last_error.ok()) return Unexpected(last_error);
  return std::optional<TrainState>();
}

}  // namespace tidegate::train
