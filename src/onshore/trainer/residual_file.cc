#include "onshore/trainer/residual_file.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/bytes.h"
#include "base/file.h"
#include "crypto/hash.h"

namespace tidegate::trainer {
namespace {

constexpr std::string_view kKept = "kept-", kCarried = "carried-";

std::filesystem::path Folder(const std::filesystem::path& job_dir) { return job_dir / "residual"; }

}  // namespace

std::string KeptName(uint32_t round) { return std::string(kKept) + std::to_string(round); }
std::string CarriedName(uint32_t round) { return std::string(kCarried) + std::to_string(round); }

bool IsResidualName(const std::string& name) {
  const size_t at = name.starts_with(kKept)      ? kKept.size()
                    : name.starts_with(kCarried) ? kCarried.size()
                                                 : std::string::npos;
  if (at == std::string::npos) return false;
  uint32_t round = 0;
  const char* const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + at, end, round);
  return error == std::errc() && rest == end;
}

Status SaveResidual(const std::filesystem::path& job_dir, const std::string& name,
                    std::span<const float> values) {
  std::error_code error;
  std::filesystem::create_directories(Folder(job_dir), error);
  if (error) {
    return Unavailable("cannot make {}: {}", Folder(job_dir).native(), error.message());
  }
  Bytes bytes(sizeof(uint64_t) + values.size_bytes());
  StoreLe64(bytes.data(), values.size());
  std::memcpy(bytes.data() + sizeof(uint64_t), values.data(), values.size_bytes());
  const Digest digest = crypto::Sha256::Of(bytes);
  bytes.insert(bytes.end(), digest.begin(), digest.end());
  return WriteFileDurably(Folder(job_dir) / name, bytes);
}

bool HasResidual(const std::filesystem::path& job_dir, const std::string& name) {
  return std::filesystem::exists(Folder(job_dir) / name);
}

Result<std::vector<float>> LoadResidual(const std::filesystem::path& job_dir,
                                        const std::string& name, uint64_t count) {
  const std::filesystem::path path = Folder(job_dir) / name;
  if (!HasResidual(job_dir, name)) return NotFound("{} is not there", path.native());
  const uint64_t body = sizeof(uint64_t) + count * sizeof(float);
  TG_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, body + sizeof(Digest)));
  const auto content = ByteSpan(bytes).first(std::min<uint64_t>(body, bytes.size()));
  const Digest digest = crypto::Sha256::Of(content);
  if (bytes.size() != body + sizeof(Digest) || LoadLe64(bytes.data()) != count ||
      !std::equal(digest.begin(), digest.end(), bytes.begin() + static_cast<ptrdiff_t>(body))) {
    return DataLoss(
        "{} is damaged; remove it, and the site goes on without what its codec has lost so far",
        path.native());
  }
  std::vector<float> values(count);
  std::memcpy(values.data(), bytes.data() + sizeof(uint64_t), count * sizeof(float));
  return values;
}

Status KeepResiduals(const std::filesystem::path& job_dir, const std::vector<std::string>& names) {
  std::error_code error;
  std::filesystem::directory_iterator files(Folder(job_dir), error);
  if (error) return OkStatus();  // there are none
  std::vector<std::filesystem::path> gone;
  for (const auto& entry : files) {
    const std::string name = entry.path().filename().native();
    if (std::find(names.begin(), names.end(), name) == names.end()) gone.push_back(entry.path());
  }
  for (const std::filesystem::path& path : gone) {
    std::filesystem::remove(path, error);
    if (error) return ErrnoStatus("remove", path.native(), error.value());
  }
  return gone.empty() ? OkStatus() : SyncDirectory(Folder(job_dir));
}

}  // namespace tidegate::trainer
