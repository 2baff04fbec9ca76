#include "model/new_folder.h"

#include <unistd.h>

#include <cerrno>

#include "base/file.h"

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

}  // namespace tidegate::model
