#include "onshore/gate_process/base_intake.h"

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "bases/patch.h"
#include "blocks/content.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

// Ranges asked for at once: a sender remembers 256.
constexpr size_t kMaxRanges = 200;
// Blocks that are not what the manifest names, until the pull is given up.
constexpr size_t kMaxBad = 16;
constexpr size_t kMaxWishes = 16;
constexpr uint64_t kQuotaBytes = protocols::kMaxBaseBlocks * protocols::kBlockBytes;

// "NAME@V.full"
Result<std::pair<bases::BaseKey, bool>> ParseWish(const fs::path& name) {
  TG_ASSIGN_OR_RETURN(const bases::BaseKey key, bases::ParseBaseKey(name.stem().native()));
  const bool patch = name.extension() == ".patch";
  if (key.version == 0 || (!patch && name.extension() != ".full")) {
    return InvalidArgument("{} is no wish", name.native());
  }
  return std::pair(key, patch);
}

}  // namespace

Result<BaseIntake> BaseIntake::Open(const fs::path& dir, const GateIdentity& identity,
                                    const Clock& clock) {
  std::error_code error;
  for (const char* folder : {"wanted", "answers"}) {
    fs::create_directories(dir / folder, error);
    if (error) return Unavailable("cannot make {}: {}", (dir / folder).native(), error.message());
  }
  // Documents of before the coordinator's key was changed are dropped: it says them again.
  TG_ASSIGN_OR_RETURN(bases::Registry registry,
                      bases::Registry::OpenGood(dir, identity.approval.federation,
                                                *identity.policy.coordinator_key));
  TG_ASSIGN_OR_RETURN(blocks::BlockStore blocks,
                      blocks::BlockStore::Open(dir / "blocks", kQuotaBytes));
  BaseIntake intake(dir, identity, clock, std::move(registry), std::move(blocks));
  TG_RETURN_IF_ERROR(intake.Look());
  return intake;
}

BaseIntake::Judged BaseIntake::TakeBase(const protocols::Signed& document) {
  auto judged = registry_.Take(document);
  if (!judged && judged.error().code() == Code::kResourceExhausted) {
    LogWarning("base_not_kept {}", judged.error().ToString());
    return std::nullopt;  // said again upon the next connection
  }
  return judged;
}

BaseIntake::Judged BaseIntake::TakeRevocation(const protocols::Signed& document) {
  TG_ASSIGN_OR_RETURN(auto refusal, registry_.TakeRevocation(document));
  TG_RETURN_IF_ERROR(Look());
  return refusal;
}

bool BaseIntake::Content::Fits(uint32_t index, size_t size) const {
  if (index >= blocks.size()) return false;
  return sizes.empty() ? blocks::BlockSizeFits(bytes, blocks.size(), index, size)
                       : sizes[index] == size;
}

bool BaseIntake::Wants(const Hash32& content) const {
  return pull_ && pull_->at < pull_->contents.size() && pull_->contents[pull_->at].id == content;
}

BaseIntake::Judged BaseIntake::TakeBlock(const Hash32& content, uint32_t index, ByteSpan bytes) {
  if (!Wants(content)) return std::nullopt;
  Content& c = pull_->contents[pull_->at];
  const bool fits = c.Fits(index, bytes.size());
  if (index < c.blocks.size() && c.asked[index]) {
    c.asked[index] = false;
    --c.under_way;
  }
  if (!fits || blocks::BlockId(bytes) != c.blocks[index]) {
    const std::string reason =
        fmt::format("block {} of {} does not have the bytes of its id", index, pull_->name);
    if (++pull_->bad >= kMaxBad) {
      TG_RETURN_IF_ERROR(Answer("refused: the coordinator sent other blocks than its manifest's"));
    }
    return Refusal{"block", reason};
  }
  if (c.have[index]) return std::nullopt;
  const Status put = blocks_.PutHashed(c.blocks[index], bytes);
  if (put.code() == Code::kResourceExhausted) {
    TG_RETURN_IF_ERROR(Answer("refused: " + put.message()));
    return std::nullopt;
  }
  TG_RETURN_IF_ERROR(put);
  c.have[index] = true;
  if (--c.missing == 0) TG_RETURN_IF_ERROR(Advance());
  return std::nullopt;
}

std::vector<WantBlocks> BaseIntake::Ask() {
  std::vector<WantBlocks> wants;
  if (!pull_ || pull_->at >= pull_->contents.size()) return wants;
  Content& c = pull_->contents[pull_->at];
  if (c.under_way > 0) return wants;
  const auto blocks = static_cast<uint32_t>(c.blocks.size());
  for (uint32_t i = 0; i < blocks && wants.size() < kMaxRanges;) {
    if (c.have[i]) {
      ++i;
      continue;
    }
    uint32_t end = i;
    for (; end < blocks && !c.have[end]; ++end) c.asked[end] = true;
    c.under_way += end - i;
    wants.push_back({c.id, i, end - i, true});
    i = end;
  }
  return wants;
}

void BaseIntake::ForgetAsked() {
  if (!pull_) return;
  for (Content& c : pull_->contents) {
    c.asked.assign(c.blocks.size(), false);
    c.under_way = 0;
  }
}

Result<std::vector<std::string>> BaseIntake::Wishes() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir_ / "wanted", error), end;
       !error && it != end && names.size() < kMaxWishes; it.increment(error)) {
    if (ParseWish(it->path().filename())) names.push_back(it->path().filename());
  }
  if (error) return Unavailable("cannot list {}/wanted: {}", dir_.native(), error.message());
  std::sort(names.begin(), names.end());
  return names;
}

Status BaseIntake::Look() {
  TG_ASSIGN_OR_RETURN(const std::vector<std::string> wishes, Wishes());
  if (pull_) {
    // Still wished, and still allowed?
    const bool wished = std::find(wishes.begin(), wishes.end(), pull_->name) != wishes.end();
    const auto wish = ParseWish(pull_->name);
    const auto base = wish ? registry_.Find(wish->first)
                           : Result<const bases::Published*>(Unexpected(wish.error()));
    if (!wished) {
      pull_.reset();
    } else if (!base) {
      TG_RETURN_IF_ERROR(Answer("refused: " + base.error().message()));
    }
  }
  std::error_code error;
  for (fs::directory_iterator it(dir_ / "answers", error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename();
    if (std::find(wishes.begin(), wishes.end(), name) != wishes.end()) continue;
    std::error_code ignored;
    fs::remove(it->path(), ignored);
  }
  if (wishes.empty()) return trimmed_ ? OkStatus() : Trim();
  trimmed_ = false;
  for (const std::string& name : wishes) {
    if (pull_) break;
    if (!fs::exists(dir_ / "answers" / name, error)) TG_RETURN_IF_ERROR(Start(name));
  }
  return OkStatus();
}

Status BaseIntake::Trim() {
  TG_ASSIGN_OR_RETURN(const std::vector<Digest> all, blocks_.List());
  for (const Digest& id : all) TG_RETURN_IF_ERROR(blocks_.Remove(id));
  trimmed_ = true;
  return OkStatus();
}

std::optional<std::string> BaseIntake::Objection(const bases::Published& base, bool patch) const {
  const protocols::BaseManifest& m = base.manifest;
  if (std::find(base_hashes_.begin(), base_hashes_.end(), m.base_hash) == base_hashes_.end()) {
    return fmt::format("base {} is not in the policy's jobs.base_hashes", ToHex(m.base_hash));
  }
  if (m.expires_unix_millis <= clock_->UnixMillis()) {
    return fmt::format("it expired at {}", FormatUtc(m.expires_unix_millis));
  }
  if (patch && m.patch.bytes == 0) return "it has no patch";
  return std::nullopt;
}

Status BaseIntake::Start(const std::string& name) {
  TG_ASSIGN_OR_RETURN(const auto wish, ParseWish(name));
  pull_.emplace();
  pull_->name = name;
  pull_->patch = wish.second;
  const auto base = registry_.Find(wish.first);
  if (!base) return Answer("refused: " + base.error().message());
  if (const auto objection = Objection(**base, wish.second))
    return Answer("refused: " + *objection);
  const protocols::BaseManifest& m = (*base)->manifest;
  Add(m.index.blocks.items, {}, m.index.bytes);
  if (wish.second) Add(m.patch.blocks.items, {}, m.patch.bytes);
  LogInfo("base_pull_begins base={}", name);
  return Advance();
}

Status BaseIntake::Answer(const std::string& answer) {
  LogInfo("base_pull_ends base={} {}", pull_->name, answer);
  const fs::path file = dir_ / "answers" / pull_->name;
  pull_.reset();
  const Status status = WriteFileDurably(file, AsBytes(answer + "\n"));
  // No room even for that: it is tried again with the next look.
  return status.code() == Code::kResourceExhausted ? OkStatus() : status;
}

void BaseIntake::Add(std::span<const Digest> ids, std::span<const protocols::BaseBlock> sizes,
                     uint64_t bytes) {
  for (const bases::Part& part : bases::PartsOf(ids)) {
    Content c;
    c.id = part.content;
    const auto slice = ids.subspan(part.first, part.blocks);
    c.blocks.assign(slice.begin(), slice.end());
    for (size_t i = 0; !sizes.empty() && i < part.blocks; ++i) {
      c.sizes.push_back(sizes[part.first + i].bytes);
    }
    const uint64_t before = static_cast<uint64_t>(part.first) * protocols::kBlockBytes;
    c.bytes = std::min<uint64_t>(bytes - std::min(bytes, before), protocols::kMaxContentBytes);
    for (const Digest& id : c.blocks) c.have.push_back(blocks_.Has(id));
    c.asked.assign(c.blocks.size(), false);
    c.missing = static_cast<size_t>(std::count(c.have.begin(), c.have.end(), false));
    pull_->contents.push_back(std::move(c));
  }
}

Status BaseIntake::Advance() {
  for (;;) {
    while (pull_->at < pull_->contents.size() && pull_->contents[pull_->at].missing == 0) {
      ++pull_->at;
    }
    if (pull_->at < pull_->contents.size()) return OkStatus();
    const Status synced = blocks_.Sync();
    if (synced.code() == Code::kResourceExhausted) {
      return Answer("refused: " + synced.message());
    }
    TG_RETURN_IF_ERROR(synced);
    if (!std::exchange(pull_->lists, false)) return Answer("done");
    const Status added = AddBlocks();
    // A block that its disk has lost is asked for again by the next wish.
    if (added.code() == Code::kInvalidArgument || added.code() == Code::kDataLoss) {
      return Answer("refused: " + added.message());
    }
    TG_RETURN_IF_ERROR(added);
  }
}

// The lists are whole: what they name comes next.
Status BaseIntake::AddBlocks() {
  TG_ASSIGN_OR_RETURN(const auto wish, ParseWish(pull_->name));
  TG_ASSIGN_OR_RETURN(const bases::Published* base, registry_.Find(wish.first));
  const protocols::BaseManifest& m = base->manifest;
  const auto source = [this](const Digest& id) { return blocks_.Get(id); };
  TG_ASSIGN_OR_RETURN(const Bytes encoded, bases::GetList(m.index, source));
  const auto index = protocols::Decode<protocols::BaseIndex>(encoded);
  if (!index) return InvalidArgument("the base's index: {}", index.error().reason);
  TG_RETURN_IF_ERROR(bases::CheckIndex(*index, m.base_bytes));
  if (!pull_->patch) {
    Add(bases::IdsOf(*index), index->blocks.items, m.base_bytes);
    return OkStatus();
  }
  TG_ASSIGN_OR_RETURN(const Bytes list, bases::GetList(m.patch, source));
  const auto patch = protocols::Decode<protocols::BasePatch>(list);
  if (!patch) return InvalidArgument("the base's patch: {}", patch.error().reason);
  TG_RETURN_IF_ERROR(bases::CheckPatch(*patch, m.patch_bytes, *index));
  Add(patch->blocks.items, {}, m.patch_bytes);
  return OkStatus();
}

}  // namespace tidegate::onshore
