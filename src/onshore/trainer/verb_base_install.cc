// base-install: makes the folder of a base whose blocks the gate has verified. `tidegate base pull`
// starts it: what is unpacked comes from offshore, so it is unpacked behind the walls.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "bases/install.h"
#include "bases/registry.h"
#include "crypto/document.h"
#include "onshore/start/start.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct InstallOptions {
  fs::path shelf, out, from;
  std::string base, manifest;
};

// The folder of blocks is the gate's: where that has a uid of its own, a start as root becomes it.
Status BecomeOwner(Invocation& invocation, const InstallOptions& options) {
  struct ::stat info {};
  if (::stat(options.shelf.c_str(), &info) != 0) {
    return ErrnoStatus("look at", options.shelf.native(), errno);
  }
  if (::geteuid() != 0 || info.st_uid == 0) return OkStatus();
  invocation.walls.uid = info.st_uid;
  return onshore::Own(options.out, info.st_uid);
}

Status Prepare(Invocation& invocation, const InstallOptions& options) {
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) return ErrnoStatus("create", options.out.native(), error.value());
  TG_RETURN_IF_ERROR(AllowRead(invocation, "shelf", options.shelf));
  if (!options.from.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "from", options.from));
  invocation.walls.read_write.push_back(options.out);
  return BecomeOwner(invocation, options);
}

Status Run(const Invocation& invocation, const InstallOptions& options, const std::string& raised) {
  TG_ASSIGN_OR_RETURN(const Digest digest, DigestFromHex(options.manifest));
  const fs::path file = options.shelf / (options.base + ".base");
  TG_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, protocols::kMaxControlBody));
  auto document = protocols::Decode<protocols::Signed>(bytes);
  if (!document || crypto::DocumentDigest(*document) != digest) {
    return DataLoss("{} is not the manifest that was verified", file.native());
  }
  auto manifest = protocols::Decode<protocols::BaseManifest>(document->body.items);
  if (!manifest) return InvalidArgument("{}: {}", file.native(), manifest.error().reason);
  bases::Installation installation{std::move(*document), std::move(*manifest),
                                   bases::BlocksIn(options.shelf / "blocks"), options.from,
                                   options.out / options.base};
  TG_RETURN_IF_ERROR(bases::Install(installation));
  const std::string hash = ToHex(installation.manifest.base_hash);
  const ordered_json json = {{"dir", installation.target.native()},
                             {"base_hash", hash},
                             {"bytes", installation.manifest.base_bytes},
                             {"walls", raised}};
  return Print(invocation, json,
               fmt::format("{}\nbase hash {}\n", installation.target.native(), hash));
}

}  // namespace

void RegisterBaseInstall(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<InstallOptions>();
  CLI::App* verb = AddVerb(
      app, "base-install", "Make the folder of a base that was fetched; `tidegate base pull` does",
      invocation, [&invocation, options] { return Prepare(invocation, *options); },
      [&invocation, options](const std::string& raised) {
        return Run(invocation, *options, raised);
      });
  verb->add_option("--shelf", options->shelf, "Folder with the manifest and blocks/")->required();
  verb->add_option("--base", options->base, "NAME@VERSION")->required();
  verb->add_option("--manifest", options->manifest, "SHA-256 of the manifest's body")->required();
  verb->add_option("--out", options->out, "Folder to make NAME@VERSION in")->required();
  verb->add_option("--from", options->from, "The base that the patch is for; without it, whole");
}

}  // namespace tidegate::trainer
