// A folder that a person carries between the shores (docs/formats/air-gap.md), as files and
// blocks.
//
// Whatever lies in it may come from an enemy: links are never followed, only regular files are
// read, sizes and counts are bounded before anything is read, and a block is what its name says or
// is not there. Each file is written beside its place, synced and renamed, so that a medium that is
// pulled out holds whole files. Linux; works behind walls that allow files below the folder and
// nothing else. Errors name the file as the person knows it. Not thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"

namespace tidegate::airgap {

// {"up", "north", "lease"}: a file or folder below the root.
using Place = std::vector<std::string>;

class Folder {
 public:
  // The folder must be there; `blocks`, `up` and `down` are made. Errors are CheckRoot's, and of
  // what cannot be made. `name`: what it is called in errors, where `root` is not what a person
  // would call it.
  static Result<Folder> Open(const std::filesystem::path& root, const std::string& name);
  // kInvalidArgument when it holds anything but those three: it could be taken for a system's root
  // by a process whose root it becomes. Makes nothing.
  static Status CheckRoot(const std::filesystem::path& root, const std::string& name);

  // Nothing when there is no such file. kInvalidArgument for a link, a device or a folder,
  // kResourceExhausted over `limit` bytes.
  Result<std::optional<Bytes>> Read(const Place& place, uint64_t limit) const;
  // Durable when it returns. A file that has these bytes already is left alone. Makes the folders
  // above. kResourceExhausted when the medium is full; the file that was there stays.
  Status Write(const Place& place, ByteSpan bytes);
  // OK when it was not there.
  Status Remove(const Place& place);
  // The names in a folder, in their order; none when it is not there. kResourceExhausted when there
  // are more than `most`.
  Result<std::vector<std::string>> List(const Place& place, size_t most) const;

  // kNotFound; kDataLoss when the bytes are not those of the name.
  Result<Bytes> Block(const Digest& id) const;
  // kInvalidArgument when the bytes do not have that id. Durable after SyncBlocks.
  Status PutBlock(const Digest& id, ByteSpan block);
  Status SyncBlocks();
  Status RemoveBlock(const Digest& id);
  // In the order of the ids. Files with other names are left out; half-written ones are removed.
  Result<std::vector<Digest>> Blocks();

  // "FOLDER/up/north/lease"
  std::string NameOf(const Place& place) const;

 private:
  Folder(Fd root, std::string name) : root_(std::move(root)), name_(std::move(name)) {}
  // The folder at the first `depth` components. Nothing when it is not there and not to be made.
  Result<std::optional<Fd>> OpenDir(const Place& place, size_t depth, bool make) const;
  Result<std::string> WriteBeside(const Place& place, const Fd& dir, ByteSpan bytes) const;

  Fd root_;
  std::string name_;
  std::set<std::string> unsynced_;  // folders of blocks with names that a crash may lose
};

}  // namespace tidegate::airgap
