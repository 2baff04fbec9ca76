#include "model/new_folder.h"

#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/limits.h"

namespace tidegate::model {
namespace fs = std::filesystem;

Status NewFolder::CheckTarget(const fs::path& target) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target, error);
  if (status.type() == fs::file_type::not_found) return OkStatus();
  if (status.type() == fs::file_type::directory && fs::is_empty(target, error) && !error) {
    return OkStatus();
  }
  return AlreadyExists("{} exists; name a folder that does not, or an empty one", target.native());
}

Result<NewFolder> NewFolder::Create(const fs::path& target) {
  std::error_code error;
  fs::path clean = fs::absolute(target, error).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  fs::create_directories(clean.parent_path(), error);
  if (error) return Unexpected(ErrnoStatus("create", clean.parent_path().native(), error.value()));
  std::string name = clean.native() + ".partial-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return Unexpected(ErrnoStatus("create", name, errno));
  return NewFolder(name, clean);
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

Status NewFolder::Publish() {
  std::error_code error;
  fs::permissions(path_, fs::perms(0755), error);
  if (!error) TG_RETURN_IF_ERROR(SyncDirectory(path_));
  if (!error) fs::rename(path_, target_, error);
  if (error) return ErrnoStatus("create", target_.native(), error.value());
  path_.clear();
  return SyncDirectory(target_.parent_path());
}

Status CopySmallFiles(const fs::path& from, const fs::path& to) {
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "vocab.json",
                           "merges.txt", "chat_template.jinja"}) {
    const auto content = ReadFile(from / name, kMaxTokenizerBytes);
    if (!content && content.error().code() == Code::kNotFound) continue;
    if (!content) return content.error();
    TG_RETURN_IF_ERROR(WriteFileDurably(to / name, *content));
  }
  return OkStatus();
}

}  // namespace tidegate::model
